"""Run an operation once for all concurrent callers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from anvyl_mcp.core.errors import AnvylError


class SingleFlight:
    """An operation that the first caller runs; callers that arrive meanwhile wait and share its outcome."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._made = 0
        self._failure: AnvylError | None = None

    async def do(self, work: Callable[[], Awaitable[object]]) -> None:
        """Run `work`, or wait for the run under way and share its outcome.

        Raises:
            AnvylError: raised by `work`. A cancelled run is not shared: the next caller runs it again.
        """
        before = self._made
        async with self._lock:
            if self._made == before:
                await self._do(work)
            elif self._failure is not None:
                raise self._failure

    async def _do(self, work: Callable[[], Awaitable[object]]) -> None:
        self._failure = None
        try:
            await work()
        except AnvylError as error:
            self._failure = error
            self._made += 1
            raise
        self._made += 1
