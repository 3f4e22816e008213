"""Codes and tokens that are pasted or piped: what stands on a command line, every user of the machine can read."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from anvyl_mcp.cli.runtime import output, runner
from anvyl_mcp.cli.terminal import interrupts
from anvyl_mcp.core.errors import InvalidInput

PIPED = "-"
MOST_CHARACTERS = 64 * 1024
REST_SECONDS = 0.1
"""What the other lines of a paste may take to arrive."""


def secret(given: str, *, what: str, instead: str) -> str:
    """The secret that was `given` on the command line, with a warning; for `-` or nothing it is asked for or read.

    Raises:
        InvalidInput: there is none.
    """
    if given not in ("", PIPED):
        output.talk(f"warning: other users of this machine can read the {what} on a command line; {instead}")
        return given
    found = _pasted(what) if runner.attended() else sys.stdin.read(MOST_CHARACTERS)
    if not found.strip():
        raise InvalidInput(f"there is no {what}", hint=f"paste it when it is asked for, or pipe it: {instead}")
    return found.strip()


def _pasted(what: str) -> str:
    """What a person pastes at the terminal, which does not show it; a paste may have several lines."""
    with interrupts.current.at_a_prompt(), _hidden():
        runner.show_prompt([f"paste the {what} (it is not shown): "])
        lines = [sys.stdin.readline()]
        while lines[-1] and select.select([sys.stdin], [], [], REST_SECONDS)[0]:
            lines.append(sys.stdin.readline())
        output.talk("")
    return "".join(lines)


@contextmanager
def _hidden() -> Iterator[None]:
    import termios

    before = termios.tcgetattr(sys.stdin)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
