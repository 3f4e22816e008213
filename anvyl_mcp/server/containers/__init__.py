"""What the container tools are made of."""
