"""Which model answers, and how it is driven."""
