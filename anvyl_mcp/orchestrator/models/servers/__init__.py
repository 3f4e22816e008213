"""Clients for local model servers, tolerant of what they really send."""
