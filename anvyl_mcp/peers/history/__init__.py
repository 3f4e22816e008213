"""The history of several hosts as one."""
