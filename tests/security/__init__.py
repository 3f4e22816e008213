"""Attacks on a host, one file for each way in: every one of them must fail."""
