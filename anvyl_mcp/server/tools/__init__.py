"""One file per toolset; every `@tool` in here is served."""
