"""Connections that are none, for what a real host will not say on demand."""

from __future__ import annotations

from anvyl_mcp.peers.connection.listing import ToolListing


class SilentHost:
    """The part of a connection that a test of calls has no use for; `call` is the test's own."""

    async def list_tools(self) -> list[ToolListing]:
        return []

    async def version(self) -> str:
        return "1"

    async def close(self) -> None:
        return
