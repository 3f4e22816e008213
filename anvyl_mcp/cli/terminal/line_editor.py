"""Read lines from a person, with history on the arrow keys and completion on Tab."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from anvyl_mcp.cli.terminal import interrupts

HISTORY_LINES = 1000
"""Lines that the history keeps."""

ReadLine = Callable[[], str | None]
"""Returns the next line, or None at the end of input."""


@contextmanager
def line_reader(
    prompt: str, history: Path, redact: Callable[[str], str], words: Callable[[], list[str]]
) -> Iterator[ReadLine]:
    """Yield a function that reads lines: with readline on a terminal, or else from stdin.

    `words` returns the completions; `redact` removes secrets from the history.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield lambda: sys.stdin.readline() or None
        return
    try:
        import readline
    except ImportError:
        yield lambda: _read_line(prompt)
        return
    with suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(HISTORY_LINES)
    readline.set_auto_history(False)
    readline.set_completer_delims(" \t\n,")
    readline.set_completer(lambda begun, number: dict(enumerate(_completions(begun, words()))).get(number))
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in str(readline.__doc__) else "tab: complete")

    def read() -> str | None:
        if line := _read_line(prompt):
            readline.add_history(redact(line))
        return line

    try:
        yield read
    finally:
        with suppress(OSError):
            os.close(os.open(history, os.O_WRONLY | os.O_CREAT, 0o600))
            history.chmod(0o600)
            readline.write_history_file(history)
            history.chmod(0o600)


def _completions(begun: str, words: list[str]) -> list[str]:
    """Return the words that start with `begun`; commands only after a slash."""
    return [f"{word} " for word in words if word.startswith(begun) and (begun or not word.startswith("/"))]


def _read_line(prompt: str) -> str | None:
    """Read a line. Ctrl-C discards the typed text and prompts again."""
    while True:
        try:
            with interrupts.current.raise_at_prompt():
                return input(prompt)
        except KeyboardInterrupt:
            print(file=sys.stderr)
        except EOFError:
            print(file=sys.stderr)
            return None
