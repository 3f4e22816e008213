"""A change whose answer was lost: the host is asked for the operation before anybody is told that nobody knows."""

from __future__ import annotations

from typing import Protocol

import anyio

from anvyl_mcp.errors import AnvylError, Unknown
from anvyl_mcp.peers.listing import Answer, Connection, ToolListing

SECONDS = 5.0
"""How long the host is asked: one that was restarted answers again by then."""
PAUSE = 0.25


class Send(Protocol):
    """Sends the same call under the same operation id once more."""

    async def __call__(self, *, seconds: float) -> Answer:
        """Wait so many seconds for the answer."""
        ...


async def settle(connection: Connection, tool: ToolListing, operation: str, lost: AnvylError, send: Send) -> Answer:
    """What became of a change, told by its host.

    It is sent again, which is safe where the host does each operation once, and nowhere else.

    Raises:
        Unknown: the host does not tell in time, or cannot.
    """
    with anyio.move_on_after(SECONDS):
        deadline = anyio.current_effective_deadline()
        while True:
            try:
                if not await _does_each_once(connection, tool):
                    break
                answer = await send(seconds=deadline - anyio.current_time())
            except AnvylError:
                answer = Answer()
            # Only an answer that carries the operation tells what became of it: a host may refuse to be asked.
            if answer.operation == operation:
                return answer
            await anyio.sleep(PAUSE)
    raise uncertain(lost, tool, operation) from lost


async def _does_each_once(connection: Connection, tool: ToolListing) -> bool:
    """Whether the host says so now: it may have been replaced by an older one."""
    return any(listed.name == tool.name and listed.once for listed in await connection.list_tools())


def uncertain(lost: AnvylError, tool: ToolListing, operation: str) -> Unknown:
    """The error for a change of which nobody knows whether it happened, with the way to find out."""
    look = "get_container_info" if "container" in tool.names.values() else "list_containers"
    reason = lost.message.partition("; it may or may not")[0]
    return Unknown(
        f"{reason}; it may or may not have happened (operation {operation})",
        hint=f"look before you repeat it: anvyl call {look}",
    )
