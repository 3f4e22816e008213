"""Answers questions in plain language with tool calls."""
