"""Commands about stacks and updates."""
