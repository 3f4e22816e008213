"""Container logs: reading, decoding, paging."""
