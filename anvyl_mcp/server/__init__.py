"""What this host can do: its tools, served over MCP."""
