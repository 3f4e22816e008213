"""The commands of `anvyl` for containers and images."""
