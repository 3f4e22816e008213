"""The chained audit log: writing, reading, verifying."""
