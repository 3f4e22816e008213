"""Values that people type: tool arguments, port mappings, and the size of an answer."""
