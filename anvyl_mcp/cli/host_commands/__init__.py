"""The commands of `anvyl-mcp`."""
