"""`anvyl-mcp serve` as a service of systemd, launchd or OpenRC."""
