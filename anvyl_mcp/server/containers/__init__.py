"""Containers: creating, recreating, describing and pruning them."""
