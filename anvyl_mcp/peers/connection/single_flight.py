"""One attempt for all who come while it is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from anvyl_mcp.core.errors import AnvylError


class SingleFlight:
    """Something that the first to come does; whoever comes meanwhile waits, and shares its outcome."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._made = 0
        self._failure: AnvylError | None = None

    async def do(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do `work`, or share what became of it.

        Raises:
            AnvylError: what `work` raised. A cancelled attempt is no outcome: the next one makes another.
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
