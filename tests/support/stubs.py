"""A stub connection, for replies that a real host does not give on demand."""

from __future__ import annotations

from anvyl_mcp.peers.connection.listing import ToolListing


class StubConnection:
    """Base class with everything but `call`, which each test defines."""

    async def list_tools(self) -> list[ToolListing]:
        return []

    async def version(self) -> str:
        return "1"

    async def close(self) -> None:
        return
