"""Progress reports and cancellation of long-running tools."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from anvyl_mcp.server.tool import Injected

TICK_SECONDS = 1.0


class Progress(Injected):
    """Progress sink of a tool; this base class discards reports and never cancels.

    Both members may be used from a worker thread.
    """

    def __call__(self, done: float, total: float | None = None, message: str = "") -> None:
        """Report progress."""

    @property
    def cancelled(self) -> bool:
        """Whether the caller cancelled; work that can stop halfway should poll this."""
        return False


class StepProgress(Progress):
    """Progress of work in several parts that count differently: only their messages are passed on, numbered."""

    def __init__(self, outer: Progress) -> None:
        self._outer = outer
        self._steps = 0
        self._mutex = threading.Lock()

    def __call__(self, done: float, total: float | None = None, message: str = "") -> None:
        """Report the message as the next step."""
        with self._mutex:
            self._steps += 1
            self._outer(self._steps, None, message)

    @property
    def cancelled(self) -> bool:
        """Whether the caller cancelled."""
        return self._outer.cancelled


@contextmanager
def report_elapsed(progress: Progress, seconds: float, words: str) -> Iterator[None]:
    """Report the elapsed time every second while the block runs; `seconds` is its timeout."""
    done, began = threading.Event(), time.monotonic()

    def tick() -> None:
        while not done.wait(TICK_SECONDS):
            passed = round(time.monotonic() - began)
            within = passed <= seconds
            of = f"{passed} of at most {seconds:g} s" if within else f"{passed} s, now being killed"
            progress(passed, seconds if within else None, f"{words}: {of}")

    ticker = threading.Thread(target=tick, name="ticking", daemon=True)
    ticker.start()
    try:
        yield
    finally:
        done.set()
        ticker.join()
