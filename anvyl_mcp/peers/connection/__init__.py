"""Transports, clients, TLS pinning and connection errors."""
