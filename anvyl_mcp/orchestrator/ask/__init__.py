"""The agent and its loop, conversation and report."""
