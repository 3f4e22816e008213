"""Checks of every proposed call: object names, hosts, and the consent it needs."""
