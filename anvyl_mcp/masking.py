"""Texts as they may be kept: with what looks secret hidden, as in results and in the audit log."""

from __future__ import annotations


def without_secrets(words: str) -> str:
    """The words with every password, key and token in them hidden."""
    # The server's rules need no engine and no SDK; but a chat that keeps nothing need not load them.
    from anvyl_mcp.server.redact import line

    return line(words)
