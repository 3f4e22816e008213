"""`python -m anvyl_mcp` is `anvyl`."""

from anvyl_mcp.cli.start import main

main()
