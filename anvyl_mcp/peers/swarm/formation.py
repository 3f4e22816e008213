"""Form a Swarm of paired hosts, or let more hosts join one.

Each host that joins makes a key for one join token, a manager encrypts the token to it, and this process only carries
what it cannot read from one to the other, over the connections it has to both. All that is checked first: a host that
cannot join, or does not let this machine decide it, is found before anything has changed.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Conflict, InvalidInput, NothingToDo, Unreachable
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.fleet.swarm_managers import SwarmPart, read_parts

PORTS = "2377/tcp, 7946/tcp, 7946/udp and 4789/udp"
DISCARD_PORT = 9
USUAL_MANAGERS = 3
"""With three, one may fail; with fewer hosts than that a second manager makes nothing safer."""


@dataclass(frozen=True)
class FormationPlan:
    """Who is or becomes the first manager, at which address, and who joins as what."""

    first: str
    address: str
    new: bool
    joins: Mapping[str, str]
    already: tuple[str, ...] = ()

    @property
    def managers(self) -> list[str]:
        """The hosts that become managers."""
        return [*([self.first] if self.new else []), *(host for host, role in self.joins.items() if role == "manager")]

    def describe(self) -> list[str]:
        """What a person has to know before agreeing."""
        workers = [host for host, role in self.joins.items() if role == "worker"]
        hosts = [*([self.first] if self.new else []), *self.joins]
        head = (
            f"This starts a Swarm on {self.first}, at {self.address}"
            if self.new
            else f"This adds {text.join_names(list(self.joins))} to the Swarm of {self.first}"
        )
        roles = [
            f"{text.join_names(self.managers)} will manage it" if self.managers else "",
            f"{text.join_names(workers)} will work for it" if workers else "",
        ]
        return [
            f"{head}; {', '.join(filter(None, roles))}.",
            f"The engines of {text.join_names(hosts)} will then run whatever a manager orders, for any of its callers: "
            "the rights and the policy of the other hosts do not see that.",
            f"Between the hosts {PORTS} must be open.",
        ]


@dataclass(frozen=True)
class JoinOutcome:
    """What became of one host."""

    host: str
    role: str
    error: AnvylError | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        if self.error is not None:
            return {"ok": False, "role": self.role, "error": str(self.error), "code": self.error.code}
        return {"ok": True, "role": self.role}


async def plan_formation(fleet: Fleet, selector: str, *, managers: int = 0, address: str = "") -> FormationPlan:
    """Decide who manages and who joins. `managers`: their number, 0 for the usual one. `address`: of the first manager.

    Raises:
        InvalidInput: the selection, the number or the address makes no sense.
        Unreachable: a host does not answer.
        Conflict: a host is in another Swarm, or its Swarm is not healthy.
        NothingToDo: all of them are in it already.
    """
    hosts = fleet.select(selector)
    parts = await read_parts(fleet)
    chosen = {host: parts[host] for host in hosts}
    _check_states(chosen)
    free = [host for host, part in chosen.items() if part.state == "inactive"]
    active = [host for host, part in chosen.items() if part.state == "active"]
    if managers > len(hosts) or managers < 0:
        raise InvalidInput(f"--managers is {managers}, and there are {text.plural(len(hosts), 'host')}")
    if active:
        return await _plan_extension(fleet, parts, active, free, managers)
    wanted = managers or (USUAL_MANAGERS if len(hosts) >= USUAL_MANAGERS else 1)
    roles = {host: "manager" if number < wanted else "worker" for number, host in enumerate(hosts)}
    first, *rest = hosts
    joins = {host: roles[host] for host in rest}
    return FormationPlan(first, address or await _address_of(fleet, first, rest), True, joins)


def _check_states(chosen: Mapping[str, SwarmPart]) -> None:
    for host, part in chosen.items():
        if part.state == "unknown":
            raise Unreachable(
                f"{host} could not be asked: {part.error}; nothing was changed", hint="see anvyl hosts check"
            )
        if part.state not in ("inactive", "active"):
            why = f" ({part.error})" if part.error else ""
            raise Conflict(
                f"the Swarm of {host} is {part.state}{why}; nothing was changed",
                hint=f"see `docker info` on {host}; anvyl swarm leave --host {host} --force takes it out",
            )


async def _plan_extension(
    fleet: Fleet, parts: Mapping[str, SwarmPart], active: list[str], free: list[str], managers: int
) -> FormationPlan:
    """Let the free hosts join the Swarm of the active ones."""
    manager = next((host for host in active if parts[host].manages), "")
    manager = manager or next((host for host, part in parts.items() if part.manages), "")
    if not manager:
        raise Conflict(
            f"no host here manages the Swarm of {text.join_names(active)}",
            hint="add a manager as a host, or let them leave: anvyl swarm leave --force",
        )
    known = await _node_ids(fleet, manager)
    foreign = [host for host in active if parts[host].node_id[:12] not in known]
    if foreign:
        raise Conflict(
            f"{text.join_names(foreign)} {'are' if len(foreign) > 1 else 'is'} in another Swarm than {manager}",
            hint=f"leave that one first: anvyl swarm leave --host {foreign[0]}",
        )
    if not free:
        raise NothingToDo(f"{text.join_names(active)} {'are' if len(active) > 1 else 'is'} in the Swarm already.")
    more = (managers or USUAL_MANAGERS) - parts[manager].managers
    if not managers and parts[manager].managers + len(free) < USUAL_MANAGERS:
        more = 0
    joins = {host: "manager" if number < more else "worker" for number, host in enumerate(free)}
    return FormationPlan(manager, parts[manager].address, False, joins, tuple(active))


async def _node_ids(fleet: Fleet, manager: str) -> set[str]:
    outcome = await fleet.call(manager, "list_nodes", {})
    if outcome.error is not None:
        raise outcome.error.on_host(manager)
    return {str(row["id"]) for row in (outcome.answer.result or {}).get("nodes", ())}


async def form(fleet: Fleet, plan: FormationPlan, on_step: Callable[[str], None]) -> list[JoinOutcome]:
    """Carry out a plan. Returns what became of each host; one that could not join does not keep others from it.

    Raises:
        AnvylError: nothing was changed: a host may not join, or the first manager could not start the Swarm.
    """
    keys = {host: str((await _step(fleet, host, "announce_swarm_join", {}))["key"]) for host in plan.joins}
    done: list[JoinOutcome] = []
    if plan.new:
        await _step(fleet, plan.first, "init_swarm", {"address": plan.address})
        done.append(JoinOutcome(plan.first, "manager"))
        on_step(f"{plan.first} started the Swarm")
    for host, role in plan.joins.items():
        try:
            sealed = await _step(fleet, plan.first, "share_swarm_token", {"key": keys[host], "role": role})
            ticket = {"key": keys[host], "sealed_token": str(sealed["sealed"]), "address": join_address(plan.address)}
            await _step(fleet, host, "join_swarm", ticket)
        except AnvylError as error:
            done.append(JoinOutcome(host, role, error))
        else:
            done.append(JoinOutcome(host, role))
            on_step(f"{host} joined as a {role}")
    return done


async def _step(fleet: Fleet, host: str, tool: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run one step.

    Raises:
        AnvylError: it failed; the message names the host.
    """
    outcome = await fleet.call(host, tool, arguments)
    if outcome.error is not None:
        raise outcome.error.on_host(host)
    return outcome.answer.result or {}


def join_address(address: str) -> str:
    """The address of a manager with the port at which others join."""
    return f"[{address}]:2377" if ":" in address else f"{address}:2377"


async def _address_of(fleet: Fleet, host: str, others: Sequence[str]) -> str:
    """The IP address at which the other hosts reach this one.

    Raises:
        InvalidInput: it is not clear from how this machine reaches them.
    """
    peers = fleet.peers
    url = peers[host].url
    name = urlsplit(url).hostname or ""
    if host == fleet.local.name and (not name or _is_loopback(name)):
        name = next(filter(None, (_source_address(urlsplit(peers[other].url).hostname or "") for other in others)), "")
    found = _resolve(name) if name else ""
    if not found or _is_loopback(found):
        raise InvalidInput(
            f"the address at which the others reach {host} is not known here", hint=f"give it: --address IP_OF_{host}"
        )
    return found


def _resolve(name: str) -> str:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return ""
    return str(found[0][4][0]) if found else ""


def _source_address(towards: str) -> str:
    """The address of this machine on the route to another; nothing is sent."""
    try:
        family, _, _, _, target = socket.getaddrinfo(towards, DISCARD_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
