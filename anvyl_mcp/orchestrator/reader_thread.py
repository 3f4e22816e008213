"""Parses questions on one thread, off the event loop, with a limit on the processor time of each question."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from anvyl_mcp.core.errors import NotUnderstood

MOST_WORDS, MOST_PARTS, MOST_CHARACTERS = 120, 24, 1200
"""Of a question for the rules, which match each phrase against each part of it."""
SECONDS = 2.0
"""Processor time for one question."""

Parsed = TypeVar("Parsed")

_limiter: RunVar[anyio.CapacityLimiter] = RunVar("_limiter")


class ReaderThread:
    """Runs the parsers of one question, within its time limit."""

    def __init__(self) -> None:
        self._seconds_left = SECONDS

    async def run(self, parse: Callable[[], Parsed]) -> Parsed:
        """Run a parser on the reader thread.

        Raises:
            NotUnderstood: the question has used up its time.
        """
        if self._seconds_left <= 0:
            raise too_long_error()
        try:
            limiter = _limiter.get()
        except LookupError:
            _limiter.set(limiter := anyio.CapacityLimiter(1))

        def timed() -> tuple[Parsed, float]:
            started = time.thread_time()
            return parse(), time.thread_time() - started

        result, seconds = await anyio.to_thread.run_sync(timed, limiter=limiter, abandon_on_cancel=True)
        self._seconds_left -= seconds
        return result


def too_long_error() -> NotUnderstood:
    """The error for a question that is too long for the rules."""
    return NotUnderstood("the question is too long to be answered by rules", hint="ask for less at once")
