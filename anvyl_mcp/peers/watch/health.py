"""Check whether hosts answer, and their engine, clock and audit log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import anyio

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Unpaired
from anvyl_mcp.peers.connection.listing import AuditHead
from anvyl_mcp.peers.fleet import status as words
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.fleet.version_skew import Offer, compare_tools
from anvyl_mcp.peers.hosts.audit_witness import HeadStore, problem_in

MORE_SECONDS = 10.0
"""Time limit for the further checks of a host that answers."""
CLOCK_SECONDS = 60
"""Clock difference that is not reported."""


@dataclass(frozen=True)
class HostHealth:
    """The health of one host: `status` is `ok`, or a status word and a reason."""

    name: str
    url: str
    tags: tuple[str, ...]
    status: str
    version: str = ""
    hint: str = ""
    pin: str = ""
    scopes: tuple[str, ...] = ()
    clock_seconds: float | None = None
    offer: Offer | None = None

    @property
    def notes(self) -> list[str]:
        """Notes for people about its clock and its tools."""
        ahead = self.clock_seconds or 0
        notes = []
        if abs(ahead) > CLOCK_SECONDS:
            off = f"{text.format_duration(abs(ahead))} {'ahead' if ahead > 0 else 'behind'}"
            notes.append(f"its clock is {off}, so the times in its logs and the expiry of tokens are off too")
        if self.offer is None:
            return notes
        notes += [f"it has another version of {name}, which {how}" for name, how in self.offer.differing.items()]
        if self.offer.foreign:
            notes.append(f"offers tools that are unknown here: {text.join_names(self.offer.foreign)}")
        return notes

    @property
    def ok(self) -> bool:
        """Whether the host is healthy."""
        return self.status == "ok"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.ok,
            "url": self.url,
            "status": self.status,
            "tags": list(self.tags),
            "version": self.version,
            "hint": self.hint,
            "pin": self.pin,
            "scopes": list(self.scopes),
            "clock_seconds": self.clock_seconds,
            "offers": list(self.offer.known) if self.offer else [],
            "skew": dict(self.offer.differing) if self.offer else {},
            "unknown_tools": list(self.offer.foreign) if self.offer else [],
        }


HealthCheck = Callable[[Fleet, str], Awaitable[HostHealth]]
"""Checks one host."""


async def check_host(fleet: Fleet, name: str, *, force: bool = False) -> HostHealth:
    """Ask one host for its version. `force`: even if it is marked down."""
    peer = fleet.peers[name]
    url = fleet.served_at if peer == fleet.local else peer.url
    try:
        version = await fleet.version(name, force=force)
    except AnvylError as error:
        return HostHealth(name, url, peer.tags, _status(error), hint=error.hint)
    return HostHealth(name, url, peer.tags, "ok", version, pin=peer.pin)


def _status(error: AnvylError) -> str:
    """Return the status for an error: `unpaired`, a status word, or `unreachable` for anything else."""
    if isinstance(error, Unpaired):
        return f"unpaired: {error.message}"
    status = words.status_text(error)
    return f"unreachable: {error.message}" if status == "ok" else status


async def examine_host(fleet: Fleet, name: str, heads: HeadStore, token: str = "") -> HostHealth:
    """Check one host fully: our scopes there, its clock offset (positive: it is ahead), its engine, and whether its
    audit log still contains the records that this machine has seen.
    """
    found = await check_host(fleet, name, force=True)
    if not found.ok:
        return found
    if "://" not in found.url:
        outcome = await fleet.call(name, "get_host_info", {})
        return _with_engine(found, ((outcome.answer.result or {}).get("engine") or {}).get("error"))
    with anyio.move_on_after(MORE_SECONDS):
        return await _examine_remote(fleet, name, heads, token, found)
    status = f"timeout: it answers, but the check did not finish within {MORE_SECONDS:g} s"
    return replace(found, status=status, hint="is it busy? try again, or check that host")


async def _examine_remote(fleet: Fleet, name: str, heads: HeadStore, token: str, found: HostHealth) -> HostHealth:
    with suppress(AnvylError):
        found = replace(found, offer=compare_tools(fleet.catalogue, await fleet.list_tools(name)))
    # Importing an HTTP client takes 0.3 s, which `anvyl hosts list` does not need.
    from anvyl_mcp.peers.hosts.pairing import engine_problem, fetch_own_access

    peer = fleet.peers[name]
    place, token = ("", token) if peer == fleet.local else (peer.url, "")
    seen = heads.heads_of(name, place)
    try:
        access = await fetch_own_access(peer, token, [head.seq for head in seen])
        ahead = (datetime.fromisoformat(str(access["time"])) - datetime.now(UTC)).total_seconds()
        scopes = tuple(str(scope) for scope in access["scopes"])[:3]
    except (AnvylError, KeyError, TypeError, ValueError):
        return found
    found = replace(found, scopes=scopes, clock_seconds=round(ahead, 1))
    if problem := problem_in(seen, access.get("audit")):
        hint = f"on that host: anvyl-mcp audit verify; if it was reinstalled: anvyl hosts check --accept-audit {name}"
        return replace(found, status=f"altered: {problem}", hint=hint)
    with suppress(AnvylError):
        found = _with_engine(found, await engine_problem(peer, token))
    if end := AuditHead.from_meta(access.get("audit")):
        heads.note(name, place, end)
    return found


def _with_engine(found: HostHealth, problem: object) -> HostHealth:
    """Mark a host as degraded if its engine does not answer."""
    return replace(found, status=f"degraded: {problem}", hint="on that host: anvyl doctor") if problem else found


async def check_hosts(
    fleet: Fleet,
    names: Sequence[str],
    check: HealthCheck = check_host,
    on_found: Callable[[HostHealth], None] | None = None,
) -> list[HostHealth]:
    """Check several hosts at once, in the order of `names`. `on_found` is called for each as soon as it is checked."""
    found: dict[str, HostHealth] = {}

    async def one(name: str) -> None:
        found[name] = await check(fleet, name)
        if on_found:
            on_found(found[name])

    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(one, name)
    return [found[name] for name in names]
