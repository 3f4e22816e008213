"""How well a model, or the rules, run a fleet: tasks in plain words on simulated hosts, checked on what became of them.

`acts/fleet.toml` is the fleet, `tasks/` what is asked of it; `tasks/heldout.toml` is never tuned against.
"""
