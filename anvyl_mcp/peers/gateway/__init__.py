"""The fleet as one MCP server."""
