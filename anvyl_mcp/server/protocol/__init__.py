"""MCP: tools, resources, prompts and completions."""
