"""The entry point of `anvyl`: a key press that wants a completion must not pay for reading the commands."""

from __future__ import annotations

import sys

from anvyl_mcp.cli.terminal import interrupts

COMPLETE = "__complete"
"""`anvyl __complete SHELL …`: what the functions of `anvyl completion` call."""


def main() -> None:
    """Run `anvyl`."""
    interrupts.exit_at_once()
    if sys.argv[1:2] == [COMPLETE]:
        from anvyl_mcp.cli.completion import candidates

        candidates.print_candidates(sys.argv[2:])
        return
    from anvyl_mcp.cli.programs import operator

    operator.main()
