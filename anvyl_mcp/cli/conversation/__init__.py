"""`anvyl ask` and `anvyl chat` at a terminal."""
