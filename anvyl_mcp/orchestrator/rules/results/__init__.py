"""From tool results to a sentence."""
