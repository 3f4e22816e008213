"""Run a handful of Docker hosts in plain words, privately."""

__version__ = "0.1.0"
