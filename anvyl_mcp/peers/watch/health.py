"""Whether hosts answer."""

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
"""What a host that answers may take to tell the rest of it."""
CLOCK_SECONDS = 60
"""By how much clocks may differ without a word."""


@dataclass(frozen=True)
class HostHealth:
    """One host as it is now: `status` is `ok`, or a word and a reason."""

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
        """What a person should know of its clock and of the tools it offers."""
        ahead = self.clock_seconds or 0
        notes = []
        if abs(ahead) > CLOCK_SECONDS:
            off = f"{text.format_duration(abs(ahead))} {'ahead' if ahead > 0 else 'behind'}"
            notes.append(f"its clock is {off}: so are the times in its log, and the end of tokens that expire")
        if self.offer is None:
            return notes
        notes += [f"its {name} is of another version: it {how}" for name, how in self.offer.differing.items()]
        if self.offer.foreign:
            notes.append(f"offers tools that are unknown here: {text.join_names(self.offer.foreign)}")
        return notes

    @property
    def ok(self) -> bool:
        """Whether it answers."""
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
"""Asks one host."""


async def check_host(fleet: Fleet, name: str, *, anew: bool = False) -> HostHealth:
    """Ask one host; `anew`: also when it is known to be down."""
    peer = fleet.peers[name]
    url = fleet.served_at if peer == fleet.local else peer.url
    try:
        version = await fleet.version(name, anew=anew)
    except AnvylError as error:
        return HostHealth(name, url, peer.tags, _status(error), hint=error.hint)
    return HostHealth(name, url, peer.tags, "ok", version, pin=peer.pin)


def _status(error: AnvylError) -> str:
    """Not being paired is a state of the host, not how a call ended; any other error means that it did not answer."""
    if isinstance(error, Unpaired):
        return f"unpaired: {error.message}"
    status = words.status_text(error)
    return f"unreachable: {error.message}" if status == "ok" else status


async def examine_host(fleet: Fleet, name: str, heads: HeadStore, token: str = "") -> HostHealth:
    """Ask one host more: what we may do there, how far its clock is from ours (positive: it is ahead), and whether its
    audit log still has what was seen of it.
    """
    found = await check_host(fleet, name, anew=True)
    if not found.ok:
        return found
    if "://" not in found.url:
        outcome = await fleet.call(name, "get_host_info", {})
        return _with_engine(found, ((outcome.answer.result or {}).get("engine") or {}).get("error"))
    with anyio.move_on_after(MORE_SECONDS):
        return await _examine_remote(fleet, name, heads, token, found)
    status = f"timeout: it answers, but told no more within {MORE_SECONDS:g} s"
    return replace(found, status=status, hint="is it busy? try again, or look at that host")


async def _examine_remote(fleet: Fleet, name: str, heads: HeadStore, token: str, found: HostHealth) -> HostHealth:
    with suppress(AnvylError):
        found = replace(found, offer=compare_tools(fleet.catalogue, await fleet.list_tools(name)))
    # An HTTP client takes 0.3 s to import, which a list of hosts need not pay.
    from anvyl_mcp.peers.hosts.pairing import engine_problem, fetch_own_access

    peer = fleet.peers[name]
    place, token = ("", token) if peer == fleet.local else (peer.url, "")
    seen = heads.of(name, place)
    try:
        told = await fetch_own_access(peer, token, [head.seq for head in seen])
        ahead = (datetime.fromisoformat(str(told["time"])) - datetime.now(UTC)).total_seconds()
        scopes = tuple(str(scope) for scope in told["scopes"])[:3]
    except (AnvylError, KeyError, TypeError, ValueError):
        return found
    found = replace(found, scopes=scopes, clock_seconds=round(ahead, 1))
    if problem := problem_in(seen, told.get("audit")):
        hint = f"look there: anvyl-mcp audit verify; was it set up anew? anvyl hosts check --accept-audit {name}"
        return replace(found, status=f"altered: {problem}", hint=hint)
    with suppress(AnvylError):
        found = _with_engine(found, await engine_problem(peer, token))
    if end := AuditHead.from_meta(told.get("audit")):
        heads.note(name, place, end)
    return found


def _with_engine(found: HostHealth, problem: object) -> HostHealth:
    """A host that answers, but whose engine does not, can do little that is asked of it."""
    return replace(found, status=f"degraded: {problem}", hint="on that host: anvyl doctor") if problem else found


async def check_hosts(
    fleet: Fleet,
    names: Sequence[str],
    how: HealthCheck = check_host,
    on_found: Callable[[HostHealth], None] | None = None,
) -> list[HostHealth]:
    """Ask several hosts at once, in the order of `names`; `on_found` is told each as soon as it answered."""
    found: dict[str, HostHealth] = {}

    async def one(name: str) -> None:
        found[name] = await how(fleet, name)
        if on_found:
            on_found(found[name])

    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(one, name)
    return [found[name] for name in names]
