"""Replace secrets in text, logs, tool arguments and environment variables."""
