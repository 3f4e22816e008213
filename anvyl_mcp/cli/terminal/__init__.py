"""Terminal input and output: streams, tables, live displays, the line editor, Ctrl-C."""
