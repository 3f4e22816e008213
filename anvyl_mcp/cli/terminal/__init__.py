"""The terminal: screen, tables, line editor, streams."""
