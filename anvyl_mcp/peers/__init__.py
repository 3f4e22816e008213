"""Which hosts exist and how to reach them."""
