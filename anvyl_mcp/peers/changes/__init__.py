"""Changes on several hosts: plan, placement, wording, outcome, undo."""
