"""The registry of hosts: pairing, discovery, keys, witness of their audit logs."""
