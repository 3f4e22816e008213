"""Callers, tokens, invitations, certificate, rate limits."""
