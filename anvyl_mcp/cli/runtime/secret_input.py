"""Reads join codes and tokens from a prompt or a pipe, since other users can read a command line."""

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
"""How long to wait for further lines of a paste."""


def read_secret(argument: str, *, what: str, instead: str) -> str:
    """Return the secret from the command line with a warning; for `-` or nothing prompt for it or read stdin.

    Raises:
        InvalidInput: the input is empty.
    """
    if argument not in ("", PIPED):
        output.print_message(f"warning: other users of this machine can read the {what} on a command line; {instead}")
        return argument
    secret = _prompt(what) if runner.attended() else sys.stdin.read(MOST_CHARACTERS)
    if not secret.strip():
        raise InvalidInput(f"the {what} is missing", hint=f"paste it at the prompt, or pipe it: {instead}")
    return secret.strip()


def _prompt(what: str) -> str:
    """Prompt for a secret without echo; a paste may span several lines."""
    with interrupts.current.raise_at_prompt(), _hidden():
        runner.show_prompt([f"paste the {what} (it is not shown): "])
        lines = [sys.stdin.readline()]
        while lines[-1] and select.select([sys.stdin], [], [], REST_SECONDS)[0]:
            lines.append(sys.stdin.readline())
        output.print_message("")
    return "".join(lines)


@contextmanager
def _hidden() -> Iterator[None]:
    """Turn off the terminal's echo."""
    import termios

    before = termios.tcgetattr(sys.stdin)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
