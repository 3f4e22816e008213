"""Take hosts out of their Swarm, so that what is left of it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Conflict, NothingToDo, Unreachable
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.fleet.swarm_managers import SwarmPart, read_parts

MOST_NAMES = 10


@dataclass(frozen=True)
class DeparturePlan:
    """The hosts that leave, in order: workers first.

    `ending`: the clusters that end with them; their `services` then stop.
    """

    hosts: tuple[str, ...]
    parts: Mapping[str, SwarmPart]
    ending: frozenset[str]
    services: tuple[str, ...]
    force: bool

    def is_end(self, host: str) -> bool:
        """Whether nothing is left of a host's Swarm in the end. A worker does not know which one is its own."""
        mine = self.parts[host].cluster
        clusters = {mine} if mine else {part.cluster for part in self.parts.values() if part.manages}
        return bool(clusters) and clusters <= self.ending

    def describe(self) -> list[str]:
        """What a person has to know before agreeing."""
        leaving = text.join_names(list(self.hosts))
        if not self.ending:
            return [
                f"{leaving} will leave the Swarm; what services run there moves to other nodes, if these have room."
            ]
        names = list(self.services[:MOST_NAMES])
        more = f" and {len(self.services) - MOST_NAMES} more" if len(self.services) > MOST_NAMES else ""
        stops = f", and its services stop for good: {', '.join(names)}{more}" if names else ""
        return [f"{leaving} will leave the Swarm, which ends{stops}."]


@dataclass(frozen=True)
class LeaveOutcome:
    """What became of one host; `note` is what was not done besides."""

    host: str
    error: AnvylError | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        if self.error is not None:
            return {"ok": False, "error": str(self.error), "code": self.error.code}
        return {"ok": True, **({"note": self.note} if self.note else {})}


async def plan_departure(fleet: Fleet, selector: str, *, force: bool = False) -> DeparturePlan:
    """Decide in which order hosts leave.

    Raises:
        NothingToDo: none of them is in a Swarm.
        Unreachable: a host does not answer.
        Conflict: nodes would be left without a manager.
    """
    parts = await read_parts(fleet)
    hosts = fleet.select(selector) if selector else list(parts)
    for host in hosts:
        if selector and parts[host].state == "unknown":
            raise Unreachable(f"{host} could not be asked: {parts[host].error}", hint="see anvyl hosts check")
    leaving = [host for host in hosts if parts[host].state not in ("inactive", "unknown")]
    if not leaving:
        raise NothingToDo(f"No Swarm to leave on {text.join_names(hosts)}.")
    leaving.sort(key=lambda host: parts[host].manages)
    managers = [host for host in leaving if parts[host].manages]
    ending, services = set[str](), list[str]()
    for cluster in {parts[host].cluster for host in managers}:
        mine = [host for host in managers if parts[host].cluster == cluster]
        if len(mine) < parts[mine[0]].managers:
            continue
        ending.add(cluster)
        left = parts[mine[0]].nodes - len(mine) - await _workers_of(fleet, mine[0], leaving, parts)
        if left > 0 and not force:
            raise Conflict(
                f"{text.join_names(mine)} {'are' if len(mine) > 1 else 'is'} the last to manage the Swarm; "
                f"{text.plural(left, 'other node')} would be left without a manager",
                hint="let them leave too, make another host a manager, or use --force",
            )
        outcome = await fleet.call(mine[0], "list_services", {"limit": 1000})
        services += [str(row["name"]) for row in (outcome.answer.result or {}).get("services", ())]
    return DeparturePlan(tuple(leaving), parts, frozenset(ending), tuple(services), force)


async def _workers_of(fleet: Fleet, manager: str, leaving: list[str], parts: Mapping[str, SwarmPart]) -> int:
    """How many of the leaving hosts work for the Swarm of this manager."""
    outcome = await fleet.call(manager, "list_nodes", {})
    nodes = {str(row["id"]) for row in (outcome.answer.result or {}).get("nodes", ())}
    return sum(not parts[host].manages and parts[host].node_id[:12] in nodes for host in leaving)


async def depart(fleet: Fleet, plan: DeparturePlan, on_step: Callable[[str], None]) -> list[LeaveOutcome]:
    """Carry out a plan. Returns what became of each host."""
    done: list[LeaveOutcome] = []
    for host in plan.hosts:
        gone = {one.host for one in done if one.error is None}
        try:
            note = await _leave(fleet, host, gone, force=plan.force, ends=plan.is_end(host))
        except AnvylError as error:
            done.append(LeaveOutcome(host, error))
        else:
            done.append(LeaveOutcome(host, note=note))
            on_step(f"{host} left the Swarm")
    return done


async def _leave(fleet: Fleet, host: str, gone: set[str], *, force: bool, ends: bool) -> str:
    """Let one host leave, and have a manager that stays forget it. Returns what could not be done besides."""
    if ends:
        await _step(fleet, host, "leave_swarm", {"force": True})
        return ""
    parts = await read_parts(fleet)
    part = parts[host]
    other = _another_manager(parts, part, gone)
    if other:
        # What runs there starts elsewhere before it is missed; a Swarm that cannot do it must not keep a host.
        await fleet.call(other, "drain_node", {"name": part.node_id})
    if part.manages and not force:
        if not other:
            raise Conflict(
                f"the other managers of {host}'s Swarm are not known here",
                hint=f"make it a worker there first, with docker node demote {host}; or use --force",
            )
        await _step(fleet, other, "demote_swarm_node", {"node": part.node_id})
    await _step(fleet, host, "leave_swarm", {"force": force or part.state != "active"})
    if not other:
        return ""
    try:
        await _step(fleet, other, "forget_swarm_node", {"node": part.node_id})
    except AnvylError as error:
        return f"{other} still lists it: {error.message}"
    return ""


def _another_manager(parts: Mapping[str, SwarmPart], part: SwarmPart, gone: set[str]) -> str:
    """A manager of the same Swarm that has not left; a worker does not know its cluster, so any manager may be it."""
    for host, other in parts.items():
        if other.manages and host != part.host and host not in gone and part.cluster in ("", other.cluster):
            return host
    return ""


async def _step(fleet: Fleet, host: str, tool: str, arguments: Mapping[str, Any]) -> None:
    outcome = await fleet.call(host, tool, arguments)
    if outcome.error is not None:
        raise outcome.error.on_host(host)
