"""Attacks on a host, one file per attack surface; every attack must fail."""
