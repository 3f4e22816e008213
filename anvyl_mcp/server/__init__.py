"""What this host can do: its tools, and the MCP server that offers them."""
