"""What every package uses: errors, text, settings, files and paths. Imports nothing else of ours."""
