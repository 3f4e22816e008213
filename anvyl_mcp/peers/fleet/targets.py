"""Resolve which hosts a call goes to if its host is not given, or is given as a selector."""

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
from anvyl_mcp.peers.fleet import swarm_managers
from anvyl_mcp.peers.fleet.fleet import ExpectedObjects, Fleet, Outcome

MOST_MEMBERS = 10
"""Containers of a stack that an error names."""


@dataclass(frozen=True)
class Lookup:
    """How to list one kind of object: tool, arguments, the result field with the rows, and the name field."""

    tool: str
    arguments: Mapping[str, Any]
    rows: str
    field: str = "name"


LOOKUPS = {
    "container": Lookup("list_containers", {"all": True, "limit": 1000}, "containers"),
    "image": Lookup("list_images", {"limit": 1000}, "images", field="tags"),
    "network": Lookup("list_networks", {"limit": 1000}, "networks"),
    "volume": Lookup("list_volumes", {"limit": 1000}, "volumes"),
    "stack": Lookup("list_stacks", {"all": True, "limit": 1000}, "stacks"),
    "service": Lookup("list_services", {"limit": 1000}, "services"),
    "node": Lookup("list_nodes", {}, "nodes"),
    "update": Lookup("list_updates", {}, "updates"),
}


ListObjects = Callable[[str], Awaitable[Mapping[str, Outcome]]]
"""Lists the objects of one kind on every host, see `list_objects`."""


async def resolve_targets(
    fleet: Fleet,
    tool: ToolListing,
    arguments: Mapping[str, Any],
    selector: str = "",
    *,
    lister: ListObjects | None = None,
) -> list[str]:
    """Return the hosts for one call. `lister`: a cached listing; by default every host is asked.

    With a selector, its hosts. A tool of a Swarm goes to one of its managers. Otherwise reads go to every host that
    has the named object, or to all hosts; a change goes to the one host that has the object, or to the only host.

    Raises:
        UnknownHost: the selector names an unknown host or tag.
        NotFound: no host has the named object.
        Conflict: several hosts have the object that would be changed.
        ApprovalNeeded: one host has it, but another did not answer and may have it too, so a person must name the host.
        InvalidInput: a change that names no existing object needs a host.
    """
    if tool.toolset == "fleet":
        return [fleet.local.name]
    if selector:
        return fleet.select(selector)
    if tool.toolset == swarm_managers.TOOLSET:
        return await swarm_managers.manager_for(fleet, tool)
    hosts = fleet.hosts
    if len(hosts) == 1:
        return hosts
    named = [(kind, str(arguments[name])) for name, kind in tool.names.items() if arguments.get(name)]
    if named:
        return await _hosts_with_any(fleet, lister or partial(list_objects, fleet), tool, named)
    if tool.reads:
        return hosts
    raise InvalidInput(
        f"`{tool.name}` needs a host: there are {text.join_names(hosts)}",
        hint="name one, like --host " + hosts[0],
        call_hint=f'give one as `host`, like "{hosts[0]}"',
    ).with_choices(hosts)


async def list_objects(fleet: Fleet, kind: str, hosts: Sequence[str] | None = None) -> dict[str, Outcome]:
    """List the objects of one kind on some hosts, or on all."""
    lookup = LOOKUPS[kind]
    return await fleet.call_many(fleet.hosts if hosts is None else hosts, lookup.tool, lookup.arguments)


async def hosts_by_name(fleet: Fleet, kind: str) -> dict[str, list[str]]:
    """Return the hosts that have each object of one kind, by name; hosts that do not answer are left out."""
    found: dict[str, list[str]] = {}
    for host, outcome in (await list_objects(fleet, kind)).items():
        for name in set(names_in(kind, outcome)):
            found.setdefault(name, []).append(host)
    return found


def names_in(kind: str, outcome: Outcome) -> list[str]:
    """Return the names of the objects that one host listed."""
    return [name for row in rows(kind, outcome) for name in _names(kind, row)]


ListedObjects = dict[str, Mapping[str, Outcome]]
"""Listings of each host, by kind of object."""


def list_objects_once(fleet: Fleet, found: ListedObjects) -> ListObjects:
    """Return a `ListObjects` that caches its listings in `found`, for several calls of one command."""

    async def lister(kind: str) -> Mapping[str, Outcome]:
        if kind not in found:
            found[kind] = await list_objects(fleet, kind)
        return found[kind]

    return lister


async def expected_container(fleet: Fleet, host: str, wanted: str) -> ExpectedObjects:
    """Return the current state of a container on one host.

    Raises:
        NotFound: the host has no such container.
        AnvylError: the host cannot be asked.
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
    fleet: Fleet, lister: ListObjects, tool: ToolListing, named: list[tuple[str, str]]
) -> list[str]:
    """Return the host of the first named object that only one host has: `web`, but not the network `bridge`."""
    error: Conflict | None = None
    for kind, wanted in sorted(named, key=lambda one: one[0] != "container"):
        try:
            return await _hosts_with(fleet, lister, tool, kind, wanted)
        except Conflict as several:
            error = error or several
    assert error is not None
    raise error


async def _hosts_with(fleet: Fleet, lister: ListObjects, tool: ToolListing, kind: str, wanted: str) -> list[str]:
    outcomes = await lister(kind)
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
            call_hint=f'set `host` to the intended one, like "{having[0]}", or to "all"',
        ).with_choices(having)
    if silent:
        raise ApprovalNeeded(
            f"{kind} `{wanted}` is on {having[0]}, but {_unreachable_reasons(silent)}, so it may be there too",
            hint=f"name the host: --host {having[0]}",
            call_hint=f'ask the person; if they agree, call it again with "{having[0]}" as `host`',
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
    of_stack = [host for host, one in outcomes.items() if kind == "container" and _members(one, wanted)]
    if of_stack:
        members = sorted({name for one in outcomes.values() for name in _members(one, wanted)})[:MOST_MEMBERS]
        have = "has" if len(of_stack) == 1 else "have"
        return NotFound(
            f"no host has a container `{wanted}`, but {text.join_names(of_stack)} {have} the stack `{wanted}`{but}",
            hint=f"name one of its containers: {text.join_names(members)}",
        )
    return not_found_error(kind, wanted, known, hosts=fleet.hosts, tool=tool.name, but=but)


def _members(outcome: Outcome, stack: str) -> list[str]:
    """Names of the containers of a stack in one host's listing."""
    return [str(row["name"]) for row in rows("container", outcome) if row.get("stack") == stack]


MACHINE_COMMANDS = {
    "restart": ("reboot machines", "sudo reboot"),
    "stop": ("shut machines down", "sudo poweroff"),
    "start": ("start machines", ""),
    "remove": ("remove machines", ""),
}
"""What a container verb means for a machine, and the shell command for it."""


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
    """Return the error for an unknown object, with similar names, or the one for a host name used as a container."""
    host = next((host for host in hosts if host.lower() == wanted.lower()), "")
    if kind == "container" and host:
        return not_a_container_error(tool.partition("_")[0], host)
    if wanted.isdecimal():
        return NotFound(f"`{wanted}` does not name a {kind}{but}", hint=f"name each {kind}, or say all")
    negative = "has" if where == "no host" else "has no"
    hint = did_you_mean(wanted, known) or f"there are no {kind}s"
    article = "a " if where == "no host" else ""
    return NotFound(f"{where} {negative} {article}{kind} `{wanted}`{but}", hint=hint)


def not_a_container_error(verb: str, host: str) -> NotFound:
    """Return the error for a container command on a machine; `host`: its name, if it is a known host."""
    does, command = MACHINE_COMMANDS.get(verb, ("do that to machines", ""))
    where = f"on {host}" if host else "on the machine itself"
    hint = f"{where}: {command}" if command else f"name a container{f' on {host}' if host else ''}"
    return NotFound(f"`{host}` is a host, and Anvyl cannot {does}" if host else f"Anvyl cannot {does}", hint=hint)


def similar_names(name: str, wanted: str) -> bool:
    """Whether two names differ only in case and separators."""
    return _normalized(name) == _normalized(wanted) != ""


def _normalized(name: str) -> str:
    return re.sub(r"[-_. ]", "", name.casefold())


def _unreachable_reasons(silent: Mapping[str, AnvylError]) -> str:
    return ", ".join(f"{host} could not be asked ({error.message})" for host, error in silent.items())


def rows(kind: str, outcome: Outcome) -> list[dict[str, Any]]:
    """Return the rows of one host's listing."""
    listed: list[dict[str, Any]] = (outcome.answer.result or {}).get(LOOKUPS[kind].rows, [])
    return listed


def _names(kind: str, row: Mapping[str, Any]) -> list[str]:
    """Return the names of one object; an image may have several, or none."""
    value = row[LOOKUPS[kind].field]
    return list(value) if isinstance(value, list) else [value]


def matches_name(kind: str, row: Mapping[str, Any], wanted: str) -> bool:
    """Whether a row has the wanted name, or an id that starts with it."""
    known = _names(kind, row)
    if kind == "container":
        wanted = wanted.removeprefix("/")
    if kind == "image" and _reference(wanted) in map(_reference, known):
        return True
    return wanted in known or matches_id(row, wanted)


def matches_id(row: Mapping[str, Any], wanted: str) -> bool:
    """Whether `wanted` is an abbreviation of a row's id that the engine accepts."""
    return len(wanted) >= 4 and str(row.get("id", "")).startswith(wanted.removeprefix("sha256:")[:12])


def _reference(image: str) -> str:
    """Return an image reference in its short form, with its tag."""
    short = image.removeprefix("index.").removeprefix("docker.io/").removeprefix("library/")
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"
