"""Tools that come and go while the server runs, and notifying clients of it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp_types import SubscriptionsListenRequestParams, SubscriptionsListenResult

log = logging.getLogger(__name__)

CHECK_SECONDS = 5
"""How often the tools on offer are checked while a client listens for changes."""
MOST_LISTENERS = 256
SEND_SECONDS = 2


class Availability(Protocol):
    """Decides which toolsets are not offered at the moment."""

    on_change: Callable[[], Awaitable[None]]
    """Called when that has changed."""

    async def withheld_toolsets(self, *, now: bool = False) -> frozenset[str]:
        """The toolsets that are not offered. `now`: find out, instead of remembering for a moment."""
        ...


class AlwaysAvailable:
    """Every toolset is offered at any time."""

    on_change: Callable[[], Awaitable[None]]

    async def withheld_toolsets(self, *, now: bool = False) -> frozenset[str]:
        """None."""
        return frozenset()


class ListingChanges:
    """Tells clients that the list of tools has changed."""

    def __init__(self, availability: Availability) -> None:
        self.availability = availability
        availability.on_change = self.announce
        self._bus = InMemorySubscriptionBus()
        self._handler = ListenHandler(self._bus, max_subscriptions=MOST_LISTENERS)
        self._sessions: weakref.WeakSet[ServerSession] = weakref.WeakSet()

    async def listen(
        self, ctx: ServerRequestContext[Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Serve one `subscriptions/listen`, and check the tools on offer for as long as it lasts."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._check)
            result = await self._handler(ctx, params)
            group.cancel_scope.cancel()
        return result

    async def _check(self) -> None:
        while True:
            await self.availability.withheld_toolsets(now=True)
            await anyio.sleep(CHECK_SECONDS)

    def remember(self, session: ServerSession) -> None:
        """Tell this session of changes; sessions of the newest protocol listen instead."""
        self._sessions.add(session)

    async def announce(self) -> None:
        """Tell every client that the list of tools has changed."""
        await self._bus.publish(ToolsListChanged())
        for session in list(self._sessions):
            try:
                with anyio.move_on_after(SEND_SECONDS):
                    await session.send_tool_list_changed()
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                self._sessions.discard(session)

    def close(self) -> None:
        """End all streams, so that the server can stop."""
        self._handler.close()


class ChangingServer(Server[Any]):
    """An MCP server whose list of tools changes."""

    changes: ListingChanges

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        """Say that the list of tools changes."""
        return super().create_initialization_options(
            notification_options or NotificationOptions(tools_changed=True), experimental_capabilities, extensions
        )
