"""Entry point of `anvyl`. Handles completion without importing the commands, so that Tab is fast."""

from __future__ import annotations

import gc
import sys

from anvyl_mcp.cli.terminal import interrupts

COMPLETE = "__complete"
"""`anvyl __complete SHELL …`: called by the scripts of `anvyl completion`."""
YOUNG_OBJECTS = 50_000
"""Objects after which garbage is looked for. Imports make many that stay; looking at them takes 0.03 s of a command."""


def main() -> None:
    """Run `anvyl`."""
    interrupts.exit_at_once()
    gc.set_threshold(YOUNG_OBJECTS)
    if sys.argv[1:2] == [COMPLETE]:
        from anvyl_mcp.cli.completion import candidates

        candidates.print_candidates(sys.argv[2:])
        return
    from anvyl_mcp.cli.programs import operator

    operator.main()
