"""Turn tool results into sentences."""
