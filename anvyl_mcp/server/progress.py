"""How a long piece of work says how far it is, and learns that nobody waits for it any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from anvyl_mcp.server.tool import Injected

TICK_SECONDS = 1.0


class Progress(Injected):
    """What a tool may report to; a face that can show progress overrides both members.

    Both may be used from a worker thread.
    """

    def __call__(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the work is; nobody listens by default."""

    @property
    def cancelled(self) -> bool:
        """Whether the caller gave up: work that can stop half way should poll this and stop."""
        return False


@contextmanager
def report_elapsed(progress: Progress, seconds: float, words: str) -> Iterator[None]:
    """Say every second how long something takes that cannot say so itself; `seconds` is how long it may."""
    done, began = threading.Event(), time.monotonic()

    def tick() -> None:
        while not done.wait(TICK_SECONDS):
            passed = round(time.monotonic() - began)
            within = passed <= seconds
            of = f"{passed} of at most {seconds:g} s" if within else f"{passed} s, so it is being made to"
            progress(passed, seconds if within else None, f"{words}: {of}")

    ticker = threading.Thread(target=tick, name="ticking", daemon=True)
    ticker.start()
    try:
        yield
    finally:
        done.set()
        ticker.join()
