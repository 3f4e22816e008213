"""Tool arguments and port mappings, parsed and checked, and results shortened to a limit."""
