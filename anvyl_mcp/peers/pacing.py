"""A caller keeps to what a host can take: few changes under way at once, and a refused call is sent again in time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from anvyl_mcp import meta
from anvyl_mcp.errors import Busy
from anvyl_mcp.peers.listing import Answer, ToolListing

PATIENCE = 120.0
"""Seconds that a call goes on being sent to a host that refuses it for want of room."""
ROOM_SECONDS = 30.0
"""Seconds that a change waits here for those before it; then the host decides."""


class Pace:
    """How fast one host is asked. Only what it refused before it acted is sent again, so no change is made twice."""

    def __init__(self) -> None:
        self._room = anyio.Semaphore(meta.CHANGES_AT_ONCE)
        self._turns: dict[str, anyio.Lock] = {}

    async def run(self, tool: ToolListing, send: Callable[[], Awaitable[Answer]]) -> Answer:
        """Send a call until the host takes it, or has refused it for too long."""
        async with self._place(tool):
            deadline = anyio.current_time() + PATIENCE
            answer = await send()
            while (wait := _wait(answer)) and anyio.current_time() + wait < deadline:
                # In turn: calls that come back together would be refused together.
                async with self._turns.setdefault(tool.scope, anyio.Lock()):
                    await anyio.sleep(wait)
                answer = await send()
            return answer

    @asynccontextmanager
    async def _place(self, tool: ToolListing) -> AsyncIterator[None]:
        """A place among the changes that are under way; reads need none."""
        if tool.reads:
            yield
            return
        with anyio.move_on_after(ROOM_SECONDS) as waiting:
            await self._room.acquire()
        try:
            yield
        finally:
            if not waiting.cancelled_caught:
                self._room.release()


def _wait(answer: Answer) -> float:
    """Seconds until the same call may be sent again; 0 when that is of no use."""
    return answer.error.retry_after if isinstance(answer.error, Busy) else 0.0
