"""Client-side rate limiting: few concurrent changes per host, and a retry of calls that the host rejected as busy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import Busy
from anvyl_mcp.peers.connection.listing import ToolAnswer, ToolListing

PATIENCE = 120.0
"""Seconds for which a call is retried on a host that is busy."""
ROOM_SECONDS = 30.0
"""Seconds without an answer to any change after which waiting changes are sent anyway, and the host decides."""


class Pacer:
    """Limits calls to one host. Only those that it rejected before acting are retried, so no change is made twice."""

    def __init__(self) -> None:
        self._room = anyio.Semaphore(protocol_keys.CHANGES_AT_ONCE)
        self._turns: dict[str, anyio.Lock] = {}
        self._answered = 0.0

    async def run(
        self, tool: ToolListing, send: Callable[[], Awaitable[ToolAnswer]], seconds: float = 0.0
    ) -> ToolAnswer:
        """Send a call until the host accepts it or `PATIENCE` is over; `seconds` is the time limit of the call."""
        async with self._place(tool, max(ROOM_SECONDS, seconds)):
            deadline = anyio.current_time() + PATIENCE
            answer = await send()
            while (wait := _retry_seconds(answer)) and anyio.current_time() + wait < deadline:
                # One at a time: calls that retry together would be rejected together.
                async with self._turns.setdefault(tool.scope, anyio.Lock()):
                    await anyio.sleep(wait)
                answer = await send()
            if not tool.reads:
                self._answered = anyio.current_time()
            return answer

    @asynccontextmanager
    async def _place(self, tool: ToolListing, seconds: float) -> AsyncIterator[None]:
        """Hold one of the slots for concurrent changes; reads need none."""
        if tool.reads:
            yield
            return
        has_room = await self._wait_for_room(seconds)
        try:
            yield
        finally:
            if has_room:
                self._room.release()

    async def _wait_for_room(self, seconds: float) -> bool:
        """Wait for a slot; give up, and return False, if the host answered no change for `seconds`."""
        deadline = anyio.current_time() + seconds
        while anyio.current_time() < deadline:
            with anyio.move_on_at(deadline):
                await self._room.acquire()
                return True
            deadline = self._answered + seconds
        return False


def _retry_seconds(answer: ToolAnswer) -> float:
    """Return the seconds after which to retry; 0 if a retry is pointless."""
    return answer.error.retry_after if isinstance(answer.error, Busy) else 0.0
