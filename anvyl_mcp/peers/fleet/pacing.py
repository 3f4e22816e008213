"""A caller keeps to what a host can take: few changes under way at once, and a refused call is sent again in time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import Busy
from anvyl_mcp.peers.connection.listing import ToolAnswer, ToolListing

PATIENCE = 120.0
"""Seconds that a call goes on being sent to a host that refuses it for want of room."""
ROOM_SECONDS = 30.0
"""Seconds without an answer to any change after which those that wait here are sent too; then the host decides."""


class Pacer:
    """How fast one host is asked. Only what it refused before it acted is sent again, so no change is made twice."""

    def __init__(self) -> None:
        self._room = anyio.Semaphore(protocol_keys.CHANGES_AT_ONCE)
        self._turns: dict[str, anyio.Lock] = {}
        self._answered = 0.0

    async def run(
        self, tool: ToolListing, send: Callable[[], Awaitable[ToolAnswer]], seconds: float = 0.0
    ) -> ToolAnswer:
        """Send a call until the host takes it, or has refused it for too long; `seconds` is what the call may take."""
        async with self._place(tool, max(ROOM_SECONDS, seconds)):
            deadline = anyio.current_time() + PATIENCE
            answer = await send()
            while (wait := _retry_seconds(answer)) and anyio.current_time() + wait < deadline:
                # In turn: calls that come back together would be refused together.
                async with self._turns.setdefault(tool.scope, anyio.Lock()):
                    await anyio.sleep(wait)
                answer = await send()
            if not tool.reads:
                self._answered = anyio.current_time()
            return answer

    @asynccontextmanager
    async def _place(self, tool: ToolListing, seconds: float) -> AsyncIterator[None]:
        """A place among the changes that are under way; reads need none."""
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
        """Whether there is room, waited for as long as the host answers changes at all."""
        deadline = anyio.current_time() + seconds
        while anyio.current_time() < deadline:
            with anyio.move_on_at(deadline):
                await self._room.acquire()
                return True
            deadline = self._answered + seconds
        return False


def _retry_seconds(answer: ToolAnswer) -> float:
    """Seconds until the same call may be sent again; 0 when that is of no use."""
    return answer.error.retry_after if isinstance(answer.error, Busy) else 0.0
