"""Secrets hidden in text and in environment variables."""
