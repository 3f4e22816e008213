"""Programs on a pseudo-terminal."""

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
"""Seconds to wait for output."""


class Terminal:
    """A program on its own pseudo-terminal."""

    def __init__(self, *arguments: str, program: str = ANVYL, size: tuple[int, int] = (200, 24)) -> None:
        """`size`: columns and lines."""
        self._master, self._slave = pty.openpty()
        termios.tcsetwinsize(self._slave, (size[1], size[0]))
        # A session leader without a terminal gets the first one it opens as its controlling terminal, for Ctrl-C.
        self.process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <>"$0" >&0 2>&0', os.ttyname(self._slave), program, *arguments],
            # Without the size of another terminal, which readline has put into the environment of this process.
            env=dict(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.shown = ""
        self._seen = 0

    def until(self, words: str) -> None:
        """Read until `words` appear after the match of the previous call."""
        deadline = time.monotonic() + PATIENCE
        while words not in self.shown[self._seen :]:
            ended = self.process.poll() is not None
            if select.select([self._master], [], [], 0 if ended else 0.1)[0]:
                self.shown += os.read(self._master, 65536).decode(errors="replace")
            else:
                assert not ended and time.monotonic() < deadline, f"`{words}` was never shown: {self.shown}"
        self._seen = self.shown.index(words, self._seen) + len(words)

    def type(self, words: str) -> None:
        os.write(self._master, words.encode(errors="surrogateescape"))

    def end(self, seconds: float = 30) -> int:
        """Wait for the exit code; the whole output is in `shown`."""
        code = self.process.wait(seconds)
        while select.select([self._master], [], [], 0)[0]:
            self.shown += os.read(self._master, 65536).decode(errors="replace")
        return code

    @property
    def echoes(self) -> bool:
        """Whether the terminal echoes input."""
        return bool(termios.tcgetattr(self._slave)[3] & termios.ECHO)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._slave)
        os.close(self._master)


@contextlib.contextmanager
def open_terminal(*arguments: str, program: str = ANVYL, size: tuple[int, int] = (200, 24)) -> Iterator[Terminal]:
    terminal = Terminal(*arguments, program=program, size=size)
    try:
        yield terminal
    finally:
        terminal.close()
