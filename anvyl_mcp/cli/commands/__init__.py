"""The commands of `anvyl`."""
