"""The two programs, `anvyl` and `anvyl-mcp`, as tables of their commands."""
