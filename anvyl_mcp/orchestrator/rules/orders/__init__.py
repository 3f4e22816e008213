"""Orders to tool calls: clauses, a frame for each tool, the objects it is about, and words that keep it unread."""
