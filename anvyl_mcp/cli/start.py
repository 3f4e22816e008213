"""Entry point of `anvyl`. Handles completion without importing the commands, so that Tab is fast."""

from __future__ import annotations

import sys

from anvyl_mcp.cli.terminal import interrupts

COMPLETE = "__complete"
"""`anvyl __complete SHELL …`: called by the scripts of `anvyl completion`."""


def main() -> None:
    """Run `anvyl`."""
    interrupts.exit_at_once()
    if sys.argv[1:2] == [COMPLETE]:
        from anvyl_mcp.cli.completion import candidates

        candidates.print_candidates(sys.argv[2:])
        return
    from anvyl_mcp.cli.programs import operator

    operator.main()
