"""Evaluate a model or the rules: tasks in plain words on a simulated fleet, checked by their results.

`acts/fleet.toml` is the fleet, `tasks/` what is asked of it; `tasks/heldout.toml` is never tuned against.
"""
