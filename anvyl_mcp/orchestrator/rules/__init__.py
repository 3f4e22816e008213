"""Answers without a model: plain phrases to tool calls."""
