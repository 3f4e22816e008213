"""Reading words costs processor time: it is done off the event loop, by one thread at a time, and only for so long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from anvyl_mcp.core.errors import NotUnderstood

MOST_WORDS, MOST_PARTS, MOST_CHARACTERS = 120, 24, 1200
"""Of a question that the rules read: each phrase is tried on each part of it."""
SECONDS = 2.0
"""Of reading, for one question."""

Read = TypeVar("Read")

_readers: RunVar[anyio.CapacityLimiter] = RunVar("_readers")


class Reading:
    """The reading of one question."""

    def __init__(self) -> None:
        self._left = SECONDS

    async def aside(self, read: Callable[[], Read]) -> Read:
        """What `read` makes of words, read on the reading thread.

        Raises:
            NotUnderstood: the question has taken too long already.
        """
        if self._left <= 0:
            raise too_long()
        try:
            readers = _readers.get()
        except LookupError:
            _readers.set(readers := anyio.CapacityLimiter(1))

        def timed() -> tuple[Read, float]:
            started = time.thread_time()
            return read(), time.thread_time() - started

        result, seconds = await anyio.to_thread.run_sync(timed, limiter=readers, abandon_on_cancel=True)
        self._left -= seconds
        return result


def too_long() -> NotUnderstood:
    """What becomes of a question that is too long for rules."""
    return NotUnderstood("the question is too long to be answered by rules", hint="ask for less at once")
