"""Listening, origin check, authentication, pairing routes."""
