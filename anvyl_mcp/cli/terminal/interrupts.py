"""Ctrl-C: what runs is asked to end, the person is told what was done, and the program ends whatever still hangs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import NoReturn

from anvyl_mcp.cli.terminal import echo

EXIT_CODE = 130
GRACE_SECONDS = 0.3
"""What the work gets to end by itself: to hang up, to note down a change that was begun."""
TELLING_SECONDS = 0.1
"""What telling may take then: whoever reads our output may have stopped reading it."""
STUCK_SECONDS = 1.0
"""After which a Ctrl-C that ended nothing is followed by one that ends everything."""


def heed_at_once() -> None:
    """From the first import on, Ctrl-C ends the program there and then: nothing is begun, so nothing is left behind."""

    def heard(_: int, __: FrameType | None) -> None:
        _say_so()
        os._exit(EXIT_CODE)

    signal.signal(signal.SIGINT, heard)


def _say_so() -> None:
    # A terminal has just shown ^C.
    print("\ninterrupted" if sys.stderr.isatty() else "interrupted", file=sys.stderr, flush=True)


class Interrupt:
    """What Ctrl-C does to one command. `words` prints what the person is told; any thread may call it.

    `lasting`: the program goes on after what was interrupted, as a chat does.
    """

    def __init__(self) -> None:
        self.words: Callable[[], None] = _say_so
        self.lasting = False
        self._came = False
        self._telling = threading.Lock()
        self._told = threading.Event()
        self._over = threading.Event()

    def tell(self) -> None:
        """Tell the person, once."""
        if self._telling.acquire(blocking=False):
            with suppress(OSError, ValueError, AttributeError):
                self.words()
                sys.stdout.flush()
            self._told.set()

    def over(self) -> None:
        """The work has ended by itself."""
        self._over.set()

    def ending(self, cancel: Callable[[], object]) -> AbstractContextManager[None]:
        """Ctrl-C cancels what runs here, and soon ends the program; a second one ends it now."""

        def heard(_: int, __: FrameType | None) -> None:
            if self._came:
                self._leave()
            self._end_soon()
            cancel()

        return _handled(heard)

    def sparing(self, cancel: Callable[[], object]) -> AbstractContextManager[None]:
        """Ctrl-C cancels what runs here and nothing else, unless it still runs long after an earlier one."""
        first = 0.0

        def heard(_: int, __: FrameType | None) -> None:
            nonlocal first
            first = first or time.monotonic()
            if time.monotonic() - first > STUCK_SECONDS:
                self._leave()
            cancel()

        return _handled(heard)

    def at_a_prompt(self) -> AbstractContextManager[None]:
        """Ctrl-C raises `KeyboardInterrupt`: no event loop turns where a person is asked something."""

        def heard(_: int, __: FrameType | None) -> NoReturn:
            if not self.lasting:
                self._end_soon()
            raise KeyboardInterrupt

        return _handled(heard)

    def _end_soon(self) -> None:
        self._came = True
        threading.Thread(target=self._end, name="Ctrl-C", daemon=True).start()

    def _end(self) -> None:
        if not self._over.wait(GRACE_SECONDS):
            self._leave()

    def _leave(self) -> NoReturn:
        echo.on()
        threading.Thread(target=self.tell, name="last words", daemon=True).start()
        self._told.wait(TELLING_SECONDS)
        os._exit(EXIT_CODE)


def unheeded() -> AbstractContextManager[None]:
    """Ctrl-C does nothing here."""
    return _handled(lambda _, __: None)


current = Interrupt()
"""Of the command that runs: a process runs one at a time."""


def begin() -> Interrupt:
    """A command begins."""
    global current
    current = Interrupt()
    return current


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        # No signal comes here.
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
