"""Waits for a host whose server is replaced by a helper container, and gets the outcome from the new server."""

from __future__ import annotations

from dataclasses import replace

import anyio

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Busy, Timeout, Unknown, Unreachable
from anvyl_mcp.peers.connection.listing import ToolAnswer
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome

PAUSE = 1.0
DEFAULT_WATCH = 120
SPARE_SECONDS = 300.0
"""Time for stopping the old server and starting the new one, in addition to the time for which it is watched."""
NO_ANSWER_YET = (Unreachable, Timeout, Unknown, Busy)


def is_pending(one: Outcome) -> bool:
    """Whether a helper still has to finish what this call asked for."""
    return one.ok and (one.answer.result or {}).get("pending") is True and bool(one.answer.operation)


async def wait(fleet: Fleet, pending: Outcome) -> Outcome:
    """Ask for the outcome of the same operation until it has one."""
    watch = pending.arguments.get("watch", DEFAULT_WATCH)
    seconds = SPARE_SECONDS + (watch if isinstance(watch, int) else DEFAULT_WATCH)
    with anyio.move_on_after(seconds):
        while True:
            await anyio.sleep(PAUSE)
            again = await fleet.call(pending.host, pending.tool, pending.arguments, operation=pending.answer.operation)
            if not (is_pending(again) or isinstance(again.error, NO_ANSWER_YET)):
                return again
    error = Unknown(
        f"the helper that replaces its server has not reported within {text.format_duration(seconds)}",
        hint=f"see what it did: anvyl updates --host {pending.host}, or docker ps --all on the host",
    )
    return replace(pending, answer=ToolAnswer(error=error))
