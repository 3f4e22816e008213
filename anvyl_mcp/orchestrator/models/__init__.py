"""Language models: which one to ask, what it is shown, and how it is driven."""
