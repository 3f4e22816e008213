"""A change whose answer was lost: the host is asked for the operation before anybody is told that nobody knows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import anyio

from anvyl_mcp.core.errors import AnvylError, Refused, Unknown
from anvyl_mcp.peers.connection.listing import Connection, ToolAnswer, ToolListing

SECONDS = 5.0
"""How long the host is asked at most; never longer than the call itself might have taken."""
PAUSE = 0.1
LIST_COMMANDS = {
    "containers": ("anvyl ps --all", "list_containers", 'all=true, host="{host}"'),
    "images": ("anvyl images", "list_images", 'host="{host}"'),
    "networks": ("anvyl call list_networks", "list_networks", 'host="{host}"'),
    "volumes": ("anvyl call list_volumes", "list_volumes", 'host="{host}"'),
}
"""How to see what became of a change by a tool of each toolset: the command, and the tool with its arguments."""
INSPECT_COMMAND = ("anvyl info {name}", "get_container_info", 'name="{name}", host="{host}"')
"""The same for a change of one container."""


class Resend(Protocol):
    """Sends the same call under the same operation id once more."""

    async def __call__(self, *, seconds: float) -> ToolAnswer:
        """Wait so many seconds for the answer."""
        ...


@dataclass(frozen=True, slots=True)
class LostChange:
    """A change that was asked of a host, and nobody knows what became of it."""

    host: str
    tool: ToolListing
    arguments: Mapping[str, Any]
    operation: str

    def error(self, reason: AnvylError) -> Unknown:
        """What its caller is told, with the way to find out."""
        said = reason.message.partition("; it may or may not")[0]
        names = [str(self.arguments.get(name, "")) for name, kind in self.tool.names.items() if kind == "container"]
        name = names[0] if names and names[0].replace("-", "").isalnum() else ""
        command, tool, arguments = (
            INSPECT_COMMAND if name else LIST_COMMANDS.get(self.tool.toolset, LIST_COMMANDS["containers"])
        )
        where = {"name": name, "host": self.host}
        return Unknown(
            f"{said}; it may or may not have happened (operation {self.operation})",
            hint=f"look before you repeat it: {command.format_map(where)} --host {self.host}",
            call_hint=f"look before you repeat it: {tool}({arguments.format_map(where)})",
        )


async def settle(
    connection: Connection, change: LostChange, reason: AnvylError, send: Resend, *, seconds: float
) -> ToolAnswer:
    """What became of a change, told by its host. `seconds` are what is left of the call's own time.

    It is sent again, which is safe where the host does each operation once, and nowhere else.

    Raises:
        Unknown: the host does not tell in time, cannot tell, or is gone.
    """
    deadline = anyio.current_time() + min(SECONDS, seconds)
    with anyio.CancelScope(deadline=deadline), suppress(Refused):
        while (left := deadline - anyio.current_time()) > 0 and await _is_idempotent(connection, change.tool):
            answer = await _resend(send, left)
            # Only an answer that carries the operation tells what became of it: a host may also refuse to be asked.
            if answer.operation == change.operation:
                return answer
            await anyio.sleep(PAUSE)
    raise change.error(reason) from reason


async def _is_idempotent(connection: Connection, tool: ToolListing) -> bool:
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


async def _resend(send: Resend, seconds: float) -> ToolAnswer:
    try:
        return await send(seconds=seconds)
    except AnvylError as error:
        return ToolAnswer(error=error)
