"""How commands are declared and parsed: the lazy table, groups, shared options, usage errors."""
