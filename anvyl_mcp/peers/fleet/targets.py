"""Which hosts a call goes to when nobody said, or said it loosely."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import (
    AnvylError,
    ApprovalNeeded,
    Conflict,
    InvalidInput,
    NotFound,
    Unreachable,
    did_you_mean,
)
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import ExpectedObjects, Fleet, Outcome


@dataclass(frozen=True)
class Lookup:
    """How the objects of one kind are found: the tool that lists them, where its rows stand, what holds their names."""

    tool: str
    arguments: Mapping[str, Any]
    rows: str
    field: str = "name"


LOOKUPS = {
    "container": Lookup("list_containers", {"all": True, "limit": 1000}, "containers"),
    "image": Lookup("list_images", {"limit": 1000}, "images", field="tags"),
    "network": Lookup("list_networks", {"limit": 1000}, "networks"),
    "volume": Lookup("list_volumes", {"limit": 1000}, "volumes"),
}


ListObjects = Callable[[str], Awaitable[Mapping[str, Outcome]]]
"""Every host's objects of one kind, as `find` gives them."""


async def resolve_targets(
    fleet: Fleet,
    tool: ToolListing,
    arguments: Mapping[str, Any],
    selector: str = "",
    *,
    look: ListObjects | None = None,
) -> list[str]:
    """The hosts for one call. `look` is for a caller that has asked before; without it every host is asked.

    What a selector names; else for a read every host that has the named object, or every host; for a change the one
    host where the named object lives, or the only host there is.

    Raises:
        UnknownHost: the selector names nobody.
        NotFound: no host has the named object.
        Conflict: several have it and the call changes something.
        ApprovalNeeded: one has it, but another could not be asked, so a person must name the host.
        InvalidInput: a change that names no existing object needs a host.
    """
    if tool.toolset == "fleet":
        return [fleet.local.name]
    if selector:
        return fleet.select(selector)
    hosts = fleet.hosts
    if len(hosts) == 1:
        return hosts
    named = [(kind, str(arguments[name])) for name, kind in tool.names.items() if arguments.get(name)]
    if named:
        return await _hosts_with_any(fleet, look or partial(list_objects, fleet), tool, named)
    if tool.reads:
        return hosts
    raise InvalidInput(
        f"`{tool.name}` needs a host: there are {text.join_names(hosts)}",
        hint="name one, like --host " + hosts[0],
        call_hint=f'give one as `host`, like "{hosts[0]}"',
    ).with_choices(hosts)


async def list_objects(fleet: Fleet, kind: str, hosts: Sequence[str] | None = None) -> dict[str, Outcome]:
    """The objects of one kind on some hosts, or on all."""
    lookup = LOOKUPS[kind]
    return await fleet.call_many(fleet.hosts if hosts is None else hosts, lookup.tool, lookup.arguments)


async def hosts_by_name(fleet: Fleet, kind: str) -> dict[str, list[str]]:
    """The names of all objects of one kind, with the hosts that have each; of the hosts that answer."""
    found: dict[str, list[str]] = {}
    for host, outcome in (await list_objects(fleet, kind)).items():
        for name in set(names_in(kind, outcome)):
            found.setdefault(name, []).append(host)
    return found


def names_in(kind: str, outcome: Outcome) -> list[str]:
    """The names of the objects that one host listed."""
    return [name for row in rows(kind, outcome) for name in _names(kind, row)]


ListedObjects = dict[str, Mapping[str, Outcome]]
"""Kind of object → what each host listed of it."""


def list_objects_once(fleet: Fleet, found: ListedObjects) -> ListObjects:
    """A look that asks for each kind once, for several calls of one command; `found` is what it has seen."""

    async def look(kind: str) -> Mapping[str, Outcome]:
        if kind not in found:
            found[kind] = await list_objects(fleet, kind)
        return found[kind]

    return look


async def expected_container(fleet: Fleet, host: str, wanted: str) -> ExpectedObjects:
    """The container that a name means on one host now.

    Raises:
        NotFound: the host has none of that name.
        AnvylError: it cannot be asked.
    """
    lookup = LOOKUPS["container"]
    outcome = await fleet.call(host, lookup.tool, lookup.arguments)
    if outcome.error is not None:
        raise outcome.error
    for row in rows("container", outcome):
        if matches_name("container", row, wanted):
            return ExpectedObjects(str(row.get("id", "")), str(row.get("state", "")))
    raise not_found_error("container", wanted, names_in("container", outcome), where=host)


async def _hosts_with_any(
    fleet: Fleet, look: ListObjects, tool: ToolListing, named: list[tuple[str, str]]
) -> list[str]:
    """Where the object lives that is on the fewest hosts: `web` has one, the network `bridge` is on all of them."""
    error: Conflict | None = None
    for kind, wanted in sorted(named, key=lambda one: one[0] != "container"):
        try:
            return await _hosts_with(fleet, look, tool, kind, wanted)
        except Conflict as several:
            error = error or several
    assert error is not None
    raise error


async def _hosts_with(fleet: Fleet, look: ListObjects, tool: ToolListing, kind: str, wanted: str) -> list[str]:
    outcomes = await look(kind)
    having = [
        host
        for host, outcome in outcomes.items()
        if any(matches_name(kind, row, wanted) for row in rows(kind, outcome))
    ]
    near = {name for outcome in outcomes.values() for name in names_in(kind, outcome) if similar_names(name, wanted)}
    if not having and len(near) == 1 and not tool.reads:
        having = [host for host, outcome in outcomes.items() if near & set(names_in(kind, outcome))]
    silent = {host: outcome.error for host, outcome in outcomes.items() if outcome.error is not None}
    if not having:
        raise _no_host_error(fleet, tool, kind, wanted, outcomes, silent)
    if tool.reads:
        return having
    if len(having) > 1:
        raise Conflict(
            f"{text.join_names(having)} all have a {kind} `{wanted}`"
            if len(having) > 2
            else f"both {text.join_names(having)} have a {kind} `{wanted}`",
            hint=f"name the host, like --host {having[0]}; or all",
            call_hint=f'give the one that is meant as `host`, like "{having[0]}"; or "all"',
        ).with_choices(having)
    if silent:
        raise ApprovalNeeded(
            f"{kind} `{wanted}` is on {having[0]}, but {_unreachable_reasons(silent)}, so it may be there too",
            hint=f"name the host: --host {having[0]}",
            call_hint=f'ask the person; with their yes call it again with "{having[0]}" as `host`',
        )
    return having


def _no_host_error(
    fleet: Fleet,
    tool: ToolListing,
    kind: str,
    wanted: str,
    outcomes: Mapping[str, Outcome],
    silent: Mapping[str, AnvylError],
) -> AnvylError:
    known = [name for outcome in outcomes.values() for name in names_in(kind, outcome)]
    if len(silent) == len(outcomes):
        return Unreachable(
            f"no host could be asked: {_unreachable_reasons(silent)}",
            hint="see `anvyl hosts check`",
            call_hint="see `list_hosts`",
        )
    but = f"; {_unreachable_reasons(silent)}" if silent else ""
    return not_found_error(kind, wanted, known, hosts=fleet.hosts, tool=tool.name, but=but)


MACHINE_COMMANDS = {
    "restart": ("reboot machines", "sudo reboot"),
    "stop": ("shut machines down", "sudo poweroff"),
    "start": ("start machines", ""),
    "remove": ("remove machines", ""),
}
"""What people want of a machine with the words for a container, and the command that does it there."""


def not_found_error(
    kind: str,
    wanted: str,
    known: Iterable[str],
    *,
    hosts: Iterable[str] = (),
    tool: str = "",
    but: str = "",
    where: str = "no host",
) -> AnvylError:
    """Why an object is not found, with near names; a host's own name is never taken for a container's."""
    host = next((host for host in hosts if host.lower() == wanted.lower()), "")
    if kind == "container" and host:
        return not_a_container_error(tool.partition("_")[0], host)
    if wanted.isdecimal():
        return NotFound(f"`{wanted}` does not say which {kind}s{but}", hint=f"name each {kind}, or say all")
    negative = "has" if where == "no host" else "has no"
    hint = did_you_mean(wanted, known) or f"there are no {kind}s"
    article = "a " if where == "no host" else ""
    return NotFound(f"{where} {negative} {article}{kind} `{wanted}`{but}", hint=hint)


def not_a_container_error(verb: str, host: str) -> NotFound:
    """The answer to an order for a machine; `host` is which, if it is one."""
    does, command = MACHINE_COMMANDS.get(verb, ("do that to machines", ""))
    where = f"on {host}" if host else "on the machine itself"
    hint = f"{where}: {command}" if command else f"name a container{f' on {host}' if host else ''}"
    return NotFound(f"`{host}` is a host, and Anvyl cannot {does}" if host else f"Anvyl cannot {does}", hint=hint)


def similar_names(name: str, wanted: str) -> bool:
    """Whether two names differ in nothing but capitals and what joins their parts."""
    return _normalized(name) == _normalized(wanted) != ""


def _normalized(name: str) -> str:
    return re.sub(r"[-_. ]", "", name.casefold())


def _unreachable_reasons(silent: Mapping[str, AnvylError]) -> str:
    return ", ".join(f"{host} could not be asked ({error.message})" for host, error in silent.items())


def rows(kind: str, outcome: Outcome) -> list[dict[str, Any]]:
    """What one host listed of a kind."""
    listed: list[dict[str, Any]] = (outcome.answer.result or {}).get(LOOKUPS[kind].rows, [])
    return listed


def _names(kind: str, row: Mapping[str, Any]) -> list[str]:
    """The names of one object: an image may have several, or none."""
    value = row[LOOKUPS[kind].field]
    return list(value) if isinstance(value, list) else [value]


def matches_name(kind: str, row: Mapping[str, Any], wanted: str) -> bool:
    """Whether a row is the object meant: by a name, or by the start of its id as the engine accepts it."""
    known = _names(kind, row)
    if kind == "container":
        wanted = wanted.removeprefix("/")
    if kind == "image" and _reference(wanted) in map(_reference, known):
        return True
    return wanted in known or matches_id(row, wanted)


def matches_id(row: Mapping[str, Any], wanted: str) -> bool:
    """Whether `wanted` abbreviates a row's id, as the engine accepts it."""
    return len(wanted) >= 4 and str(row.get("id", "")).startswith(wanted.removeprefix("sha256:")[:12])


def _reference(image: str) -> str:
    """An image reference in its short form, with its tag."""
    short = image.removeprefix("index.").removeprefix("docker.io/").removeprefix("library/")
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"
