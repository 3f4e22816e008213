"""A change whose answer was lost: the host is asked for the operation before anybody is told that nobody knows."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import anyio

from anvyl_mcp.errors import AnvylError, Refused, Unknown
from anvyl_mcp.peers.listing import Answer, Connection, ToolListing

SECONDS = 5.0
"""How long the host is asked at most; never longer than the call itself might have taken."""
PAUSE = 0.1


class Send(Protocol):
    """Sends the same call under the same operation id once more."""

    async def __call__(self, *, seconds: float) -> Answer:
        """Wait so many seconds for the answer."""
        ...


async def settle(
    connection: Connection, tool: ToolListing, operation: str, lost: AnvylError, send: Send, *, seconds: float
) -> Answer:
    """What became of a change, told by its host. `seconds` are what is left of the call's own time.

    It is sent again, which is safe where the host does each operation once, and nowhere else.

    Raises:
        Unknown: the host does not tell in time, cannot tell, or is gone.
    """
    deadline = anyio.current_time() + min(SECONDS, seconds)
    with anyio.CancelScope(deadline=deadline), suppress(Refused):
        while (left := deadline - anyio.current_time()) > 0 and await _does_each_once(connection, tool):
            answer = await _asked(send, left)
            # Only an answer that carries the operation tells what became of it: a host may also refuse to be asked.
            if answer.operation == operation:
                return answer
            await anyio.sleep(PAUSE)
    raise uncertain(lost, tool, operation) from lost


async def _does_each_once(connection: Connection, tool: ToolListing) -> bool:
    """Whether the host says so now: it may have been replaced by an older one.

    Raises:
        Refused: nothing listens there any more.
    """
    while True:
        try:
            return any(listed.name == tool.name and listed.once for listed in await connection.list_tools())
        except Refused:
            raise
        except AnvylError:
            await anyio.sleep(PAUSE)


async def _asked(send: Send, seconds: float) -> Answer:
    try:
        return await send(seconds=seconds)
    except AnvylError as error:
        return Answer(error=error)


def uncertain(lost: AnvylError, tool: ToolListing, operation: str) -> Unknown:
    """The error for a change of which nobody knows whether it happened, with the way to find out."""
    look = "get_container_info" if "container" in tool.names.values() else "list_containers"
    reason = lost.message.partition("; it may or may not")[0]
    return Unknown(
        f"{reason}; it may or may not have happened (operation {operation})",
        hint=f"look before you repeat it: anvyl call {look}",
    )
