"""Ctrl-C: cancel what is running, report what was done, and exit even if something still hangs."""

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
"""Time for the cancelled work to finish: to close connections, and to record a change that was sent."""
REPORT_SECONDS = 0.1
"""Time for the report after that. It can block if the reader of our output has stopped reading."""
STUCK_SECONDS = 1.0
"""If the first Ctrl-C has not ended the work after this time, the next one exits."""


def exit_at_once() -> None:
    """Until a command starts, exit immediately on Ctrl-C: there is nothing to clean up."""

    def on_signal(_: int, __: FrameType | None) -> None:
        _report()
        os._exit(EXIT_CODE)

    signal.signal(signal.SIGINT, on_signal)


def _report() -> None:
    # A terminal has just shown ^C.
    print("\ninterrupted" if sys.stderr.isatty() else "interrupted", file=sys.stderr, flush=True)


class Interrupt:
    """How one command handles Ctrl-C. `report` prints what was done; any thread may call it.

    `keeps_running`: the program continues after the interrupted work, as a chat does.
    """

    def __init__(self) -> None:
        self.report: Callable[[], None] = _report
        self.keeps_running = False
        self._interrupted = False
        self._report_lock = threading.Lock()
        self._reported = threading.Event()
        self._finished = threading.Event()

    def report_once(self) -> None:
        """Call `report`, unless that was done before."""
        if self._report_lock.acquire(blocking=False):
            with suppress(OSError, ValueError, AttributeError):
                self.report()
                sys.stdout.flush()
            self._reported.set()

    def finish(self) -> None:
        """Mark the work as finished, so that the program is not killed."""
        self._finished.set()

    def cancel_then_exit(self, cancel: Callable[[], object]) -> AbstractContextManager[None]:
        """On Ctrl-C, cancel the work and exit after the grace period; on the second one, exit immediately."""

        def on_signal(_: int, __: FrameType | None) -> None:
            if self._interrupted:
                self._exit()
            self._exit_soon()
            cancel()

        return _handler(on_signal)

    def cancel_only(self, cancel: Callable[[], object]) -> AbstractContextManager[None]:
        """On Ctrl-C, cancel the work but continue; exit if it still runs long after the first one."""
        first = 0.0

        def on_signal(_: int, __: FrameType | None) -> None:
            nonlocal first
            first = first or time.monotonic()
            if time.monotonic() - first > STUCK_SECONDS:
                self._exit()
            cancel()

        return _handler(on_signal)

    def raise_at_prompt(self) -> AbstractContextManager[None]:
        """On Ctrl-C, raise `KeyboardInterrupt`, because a prompt blocks the event loop."""

        def on_signal(_: int, __: FrameType | None) -> NoReturn:
            if not self.keeps_running:
                self._exit_soon()
            raise KeyboardInterrupt

        return _handler(on_signal)

    def _exit_soon(self) -> None:
        self._interrupted = True
        threading.Thread(target=self._exit_after_grace, name="Ctrl-C", daemon=True).start()

    def _exit_after_grace(self) -> None:
        if not self._finished.wait(GRACE_SECONDS):
            self._exit()

    def _exit(self) -> NoReturn:
        echo.on()
        threading.Thread(target=self.report_once, name="report", daemon=True).start()
        self._reported.wait(REPORT_SECONDS)
        os._exit(EXIT_CODE)


def ignore() -> AbstractContextManager[None]:
    """Ignore Ctrl-C in this context."""
    return _handler(lambda _, __: None)


current = Interrupt()
"""The interrupt of the running command; a process runs one at a time."""


def start_command() -> Interrupt:
    """Set and return the interrupt of a new command."""
    global current
    current = Interrupt()
    return current


@contextmanager
def _handler(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread only.
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
