"""The error of an edit that could lose content."""


class UnsupportedConfig(ValueError):
    """A config file that cannot be changed without losing content."""
