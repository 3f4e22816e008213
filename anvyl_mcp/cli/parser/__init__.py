"""Declaration and parsing of commands: the lazy table, groups, shared options, usage errors."""
