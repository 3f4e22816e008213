"""`anvyl` and `anvyl-mcp`: parse, call one function, print."""
