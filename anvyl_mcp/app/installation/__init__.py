"""How this installation was made, how to upgrade it, and the copy of its home that precedes a new format."""
