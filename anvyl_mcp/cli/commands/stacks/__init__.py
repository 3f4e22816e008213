"""Commands about stacks, updates and the Swarm."""
