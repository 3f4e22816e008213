"""Find and undo the last change of the fleet. The host that made the change keeps the undo record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core.errors import ApprovalNeeded, NotFound
from anvyl_mcp.core.text import join_names
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome

LOOK, UNDO = "get_last_change", "undo_change"


@dataclass(frozen=True, slots=True)
class UndoCandidate:
    """The change that would be undone, and its host; `words` describe it to people."""

    host: str
    change: Mapping[str, Any]
    words: str

    @property
    def possible(self) -> bool:
        """Whether the object is still in the state that the change left it in."""
        return bool(self.change["possible"])


async def last_change(fleet: Fleet, selector: str = "") -> UndoCandidate:
    """Return the newest change that can be undone on the hosts of a selector, or on any host.

    Raises:
        NotFound: there is none.
        ApprovalNeeded: a host did not answer and may have a newer one, so a person must name the host.
        AnvylError: no host answered.
    """
    hosts = fleet.select(selector) if selector else fleet.hosts
    outcomes = await fleet.call_many(hosts, LOOK, {})
    found = [
        UndoCandidate(host, one.answer.result, one.answer.text)
        for host, one in outcomes.items()
        if one.answer.result and one.answer.result["operation"]
    ]
    errors = {host: one.error for host, one in outcomes.items() if one.error is not None}
    if not found:
        for host, error in errors.items():
            raise error.on_host(host)
        raise NotFound(
            f"nothing to undo on {join_names(hosts)}",
            hint="a start, stop or removal through Anvyl can be undone for 24 hours",
        )
    newest = max(found, key=lambda one: str(one.change["time"]))
    silent = [host for host, one in outcomes.items() if one.host_failed]
    if silent and not selector:
        raise ApprovalNeeded(
            f"the last change was on {newest.host}, but {join_names(silent)} could not be asked",
            hint=f"name the host: --host {newest.host}",
        )
    return newest


async def undo(fleet: Fleet, wanted: UndoCandidate) -> Outcome:
    """Undo a change on the host that made it."""
    arguments = {"name": wanted.change["name"], "operation": wanted.change["operation"]}
    return await fleet.call(wanted.host, UNDO, arguments)
