"""Resolve a change whose answer was lost, by asking the host for the outcome of the operation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import anyio

from anvyl_mcp.core.errors import AnvylError, Refused, Unknown
from anvyl_mcp.peers.connection.listing import Connection, ToolAnswer, ToolListing

SECONDS = 5.0
"""How long to keep asking, limited by the remaining time of the call."""
PAUSE = 0.1
LIST_COMMANDS = {
    "containers": ("anvyl ps --all", "list_containers", 'all=true, host="{host}"'),
    "images": ("anvyl images", "list_images", 'host="{host}"'),
    "networks": ("anvyl call list_networks", "list_networks", 'host="{host}"'),
    "volumes": ("anvyl call list_volumes", "list_volumes", 'host="{host}"'),
}
"""How to check the outcome of a change, by toolset: a command, and a tool with its arguments."""
INSPECT_COMMAND = ("anvyl info {name}", "get_container_info", 'name="{name}", host="{host}"')
"""The same for a change of one container."""


class Resend(Protocol):
    """Sends the same call again, with the same operation id."""

    async def __call__(self, *, seconds: float) -> ToolAnswer:
        """Send the call with a time limit."""
        ...


@dataclass(frozen=True, slots=True)
class LostChange:
    """A change that was sent to a host and whose outcome is unknown."""

    host: str
    tool: ToolListing
    arguments: Mapping[str, Any]
    operation: str

    def error(self, reason: AnvylError) -> Unknown:
        """Return the error for the caller, with a hint how to check the outcome."""
        cause = reason.message.partition("; it may or may not")[0]
        names = [str(self.arguments.get(name, "")) for name, kind in self.tool.names.items() if kind == "container"]
        name = names[0] if names and names[0].replace("-", "").isalnum() else ""
        command, tool, arguments = (
            INSPECT_COMMAND if name else LIST_COMMANDS.get(self.tool.toolset, LIST_COMMANDS["containers"])
        )
        where = {"name": name, "host": self.host}
        return Unknown(
            f"{cause}; it may or may not have happened (operation {self.operation})",
            hint=f"check before you repeat it: {command.format_map(where)} --host {self.host}",
            call_hint=f"check before you repeat it: {tool}({arguments.format_map(where)})",
        )


async def settle(
    connection: Connection, change: LostChange, reason: AnvylError, send: Resend, *, seconds: float
) -> ToolAnswer:
    """Return the outcome of a change, as its host reports it. `seconds`: the remaining time of the call.

    The call is resent, which is safe only on hosts that deduplicate operations.

    Raises:
        Unknown: the host does not answer in time, does not deduplicate, or is gone.
    """
    deadline = anyio.current_time() + min(SECONDS, seconds)
    with anyio.CancelScope(deadline=deadline), suppress(Refused):
        while (left := deadline - anyio.current_time()) > 0 and await _is_idempotent(connection, change.tool):
            answer = await _resend(send, left)
            # Only an answer with the operation id is the outcome: the host may also have rejected the resent call.
            if answer.operation == change.operation:
                return answer
            await anyio.sleep(PAUSE)
    raise change.error(reason) from reason


async def _is_idempotent(connection: Connection, tool: ToolListing) -> bool:
    """Whether the host deduplicates this tool's calls; asked anew, since an older version may run there by now.

    Raises:
        Refused: the host no longer accepts connections.
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
