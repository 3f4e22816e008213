"""A terminal for a program, as a person has it."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Iterator

from tests.support.hosts.nodes import ANVYL

PATIENCE = 60
"""Seconds that something may take to be shown."""


class Terminal:
    """A program on a terminal of its own, as a person has it."""

    def __init__(self, *arguments: str, program: str = ANVYL, size: tuple[int, int] = (200, 24)) -> None:
        """`size`: its columns and lines."""
        self._ours, self._theirs = pty.openpty()
        termios.tcsetwinsize(self._theirs, (size[1], size[0]))
        # A process without a terminal gets the first that it opens as its own, and with it Ctrl-C.
        self.process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <>"$0" >&0 2>&0', os.ttyname(self._theirs), program, *arguments],
            # Not what readline has put into this process's own environment, which is the size of another terminal.
            env=dict(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.shown = ""
        self._seen = 0

    def until(self, words: str) -> None:
        """Read until they are shown, after what was waited for before."""
        deadline = time.monotonic() + PATIENCE
        while words not in self.shown[self._seen :]:
            ended = self.process.poll() is not None
            if select.select([self._ours], [], [], 0 if ended else 0.1)[0]:
                self.shown += os.read(self._ours, 65536).decode(errors="replace")
            else:
                assert not ended and time.monotonic() < deadline, f"`{words}` was never shown: {self.shown}"
        self._seen = self.shown.index(words, self._seen) + len(words)

    def type(self, words: str) -> None:
        os.write(self._ours, words.encode(errors="surrogateescape"))

    def end(self, seconds: float = 30) -> int:
        """Its exit code, once it has ended; all that it showed is in `shown`."""
        code = self.process.wait(seconds)
        while select.select([self._ours], [], [], 0)[0]:
            self.shown += os.read(self._ours, 65536).decode(errors="replace")
        return code

    @property
    def echoes(self) -> bool:
        """Whether it shows what is typed."""
        return bool(termios.tcgetattr(self._theirs)[3] & termios.ECHO)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._theirs)
        os.close(self._ours)


@contextlib.contextmanager
def on_a_terminal(*arguments: str, program: str = ANVYL, size: tuple[int, int] = (200, 24)) -> Iterator[Terminal]:
    terminal = Terminal(*arguments, program=program, size=size)
    try:
        yield terminal
    finally:
        terminal.close()
