"""Plan a change: which hosts can make it, on which objects, and why the other hosts cannot.

A person is asked to approve only what can be done, and the change is made only if its objects are unchanged by then.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Denied, NotFound, NothingToDo
from anvyl_mcp.core.values import ports
from anvyl_mcp.peers.changes.preview import preview_change
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet import swarm_managers
from anvyl_mcp.peers.fleet.fleet import ExpectedObjects, Fleet, OnBehalf, Outcome
from anvyl_mcp.peers.fleet.targets import (
    LOOKUPS,
    list_objects,
    matches_name,
    names_in,
    not_found_error,
    rows,
    similar_names,
)

ListObjectsOn = Callable[[str, Sequence[str]], Awaitable[Mapping[str, Outcome]]]
"""Lists the objects of one kind on some hosts."""
ListOfferedTools = Callable[[Sequence[str]], Awaitable[Mapping[str, frozenset[str] | AnvylError]]]
"""Returns the names of the tools that this machine may use on each host, or the error of a host."""
MOST_LINES = 20
"""Objects listed per host; beyond that only their number is shown."""
CHECKED = ("container", "network", "volume", "stack", "service", "node")
"""Kinds whose names are checked here; an image has more names than an engine lists."""


@dataclass(frozen=True)
class ChangePlan:
    """A change that can be made: its arguments, its hosts with their objects, and the errors of the other hosts."""

    arguments: dict[str, Any]
    hosts: list[str]
    expected: dict[str, ExpectedObjects] = field(default_factory=dict)
    problems: dict[str, AnvylError] = field(default_factory=dict)
    details: tuple[str, ...] = ()
    """Lines that list the affected objects, if the arguments do not name them."""


async def plan_change(
    fleet: Fleet,
    tool: ToolListing,
    arguments: Mapping[str, Any],
    hosts: Sequence[str],
    *,
    on_behalf: OnBehalf | None = None,
    lister: ListObjectsOn | None = None,
    offered: ListOfferedTools | None = None,
    created: Collection[str] = (),
) -> ChangePlan:
    """Find the hosts that can make a change. `created`: objects that earlier changes of the same request create.

    Raises:
        AnvylError: no host can make it.
    """
    if on_behalf is not None and tool.scope not in on_behalf.scopes:
        raise Denied(f"`{tool.name}` needs the scope `{tool.scope}`, which `{on_behalf.name}` does not have")
    given, seen = dict(arguments), dict[str, Mapping[str, Outcome]]()
    by_host = await (offered or partial(offered_tools, fleet))(hosts)
    problems = _not_offered(fleet, tool, by_host)
    for argument, kind in tool.names.items():
        wanted = str(given.get(argument) or "")
        if not wanted or wanted in created or kind not in LOOKUPS:
            continue
        if kind not in seen:
            able = [host for host in hosts if host not in problems]
            seen[kind] = await (lister or partial(list_objects, fleet))(kind, able)
        wanted = given[argument] = _corrected_name(kind, wanted, seen[kind]) or wanted
        for host, outcome in seen[kind].items():
            row = next((row for row in rows(kind, outcome) if matches_name(kind, row, wanted)), None)
            whole = not (outcome.answer.result or {}).get("more")
            if outcome.error is not None:
                problems[host] = outcome.error
            elif row is None and whole and kind in CHECKED:
                known = names_in(kind, outcome)
                problems[host] = not_found_error(kind, wanted, known, hosts=fleet.hosts, tool=tool.name, where=host)
    possible = [host for host in hosts if host not in problems]
    details: list[str] = []
    if shows := [(name, schema["x-shown"]) for name, schema in tool.arguments.items() if "x-shown" in schema]:
        argument, list_tool = shows[0]
        able = [host for host in possible if list_tool in _tool_names(by_host[host])]
        affected, details = await _bind_objects(fleet, argument, list_tool, given, able, problems)
        # A host of an earlier version has no tool that lists them; the prompt says so.
        details += [f"{host}: cannot list the affected objects" for host in possible if host not in able]
        possible = [host for host in possible if host in affected or host not in able]
        if hosts and not possible and not problems:
            raise _nothing_to_prune(given, hosts)
    details += await preview_change(fleet, tool, given, possible, problems, on_behalf)
    possible = [host for host in possible if host not in problems]
    if hosts and not possible:
        raise _impossible_error(problems)
    given = await resolve_ports(fleet, tool, given, possible)
    current = await expected_objects(fleet, tool, given, possible, seen=seen, lister=lister)
    return ChangePlan(given, possible, current, problems, tuple(details))


async def _bind_objects(
    fleet: Fleet,
    argument: str,
    list_tool: str,
    given: dict[str, Any],
    hosts: list[str],
    problems: dict[str, AnvylError],
) -> tuple[list[str], list[str]]:
    """Pin a change to the objects that the tool `list_tool` lists now. Returns hosts with any, and lines to show."""
    known = fleet.tool(list_tool).arguments
    outcomes = await fleet.call_many(hosts, list_tool, {name: value for name, value in given.items() if name in known})
    only = {str(one) for one in given.get(argument) or ()}
    having, details, ids = list[str](), list[str](), list[str]()
    for host, outcome in outcomes.items():
        if outcome.error is not None:
            problems[host] = outcome.error
            continue
        listed = (outcome.answer.result or {}).get(text.rows_field(fleet.tool(list_tool).output_schema), [])
        found = [row for row in listed if not only or row["id"] in only]
        ids += [row["id"] for row in found]
        having += [host] if found else []
        details += _lines(host, found)
    if ids:
        given[argument] = list(dict.fromkeys(ids))
    return having, details


UNUSED = {"all": "unused objects", "space": "untagged images and no build cache"}
"""How the message of a prune with nothing to do names choices that are not a kind of object."""


def _nothing_to_prune(given: Mapping[str, Any], hosts: Sequence[str]) -> NothingToDo:
    what = str(given.get("what", "")).replace("_", " ")
    return NothingToDo(f"Nothing to remove: no {UNUSED.get(what, f'unused {what}')} on {text.join_names(hosts)}")


def _tool_names(offered: frozenset[str] | AnvylError) -> frozenset[str]:
    return frozenset() if isinstance(offered, AnvylError) else offered


def _lines(host: str, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines for one host: the number and size of the affected objects, then each by name."""
    if not found:
        return []
    whole = text.format_size(sum(row["size"] for row in found))
    head = f"{host}: {text.plural(len(found), 'object')}, {whole}"
    rows = [f"  {row['kind']} {row['name']}  {text.format_size(row['size'])}" for row in found[:MOST_LINES]]
    more = [f"  and {len(found) - MOST_LINES} more"] if len(found) > MOST_LINES else []
    return [head, *rows, *more]


async def offered_tools(fleet: Fleet, hosts: Sequence[str]) -> dict[str, frozenset[str] | AnvylError]:
    """Return the names of the tools that this machine may use on each host, or the error of a host."""
    found: dict[str, frozenset[str] | AnvylError] = {}

    async def one(host: str) -> None:
        try:
            found[host] = frozenset(tool.name for tool in await fleet.list_tools(host))
        except AnvylError as error:
            found[host] = error

    async with anyio.create_task_group() as group:
        for host in hosts:
            group.start_soon(one, host)
    return {host: found[host] for host in hosts}


def _not_offered(
    fleet: Fleet, tool: ToolListing, offered_by: Mapping[str, frozenset[str] | AnvylError]
) -> dict[str, AnvylError]:
    """Return an error for each host that does not offer a tool."""
    problems: dict[str, AnvylError] = {}
    for host, offered in offered_by.items():
        if isinstance(offered, AnvylError):
            problems[host] = offered
        elif offered and tool.name not in offered and tool.toolset == swarm_managers.TOOLSET:
            problems[host] = swarm_managers.not_offered_error(tool.name, host)
        elif offered and tool.name not in offered:
            of_its_kind = [name for name, one in fleet.catalogue.items() if one.scope == tool.scope]
            problems[host] = (
                NotFound(
                    f"`{tool.name}` is turned off on {host}, or its policy denies it to this machine",
                    hint=f"on {host} see --toolsets of `anvyl-mcp serve` and `anvyl-mcp policy check`",
                )
                if offered & set(of_its_kind)
                else Denied(
                    f"`{tool.name}` needs the scope `{tool.scope}` on {host}, which this machine does not have there",
                    hint=f"on {host} run `anvyl-mcp invite --scope read,operate,exec`, here then `anvyl hosts add`",
                )
            )
    return problems


def _corrected_name(kind: str, wanted: str, seen: Mapping[str, Outcome]) -> str:
    """Return the only similar name if none matches exactly: `plex` for `PLEX`, `home-assistant` for `homeassistant`."""
    every = [(row, names_in(kind, outcome)) for outcome in seen.values() for row in rows(kind, outcome)]
    if any(matches_name(kind, row, wanted) for row, _ in every):
        return ""
    near = {name for _, names in every for name in names if similar_names(name, wanted)}
    return near.pop() if len(near) == 1 else ""


def _impossible_error(problems: Mapping[str, AnvylError]) -> AnvylError:
    error = _combined_error(problems)
    error.by_host = problems
    return error


def _combined_error(problems: Mapping[str, AnvylError]) -> AnvylError:
    """Combine the errors of several hosts into one that names each host."""
    hosts_of: dict[str, list[str]] = {}
    for host, error in problems.items():
        hosts_of.setdefault(error.message, []).append(host)
    errors = {error.message: error for error in problems.values()}
    named = [
        error
        if all(_mentions(message, host) for host in hosts_of[message])
        else error.on_host(text.join_names(hosts_of[message]))
        for message, error in errors.items()
    ]
    if len(named) == 1:
        return named[0]
    kinds = {type(error) for error in named}
    hints = dict.fromkeys(error.hint for error in named if error.hint)
    message = text.join_names([error.message for error in named])
    return (kinds.pop() if len(kinds) == 1 else AnvylError)(message, hint=next(iter(hints), ""))


def _mentions(message: str, host: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(host)}(?![\w-])", message) is not None


async def expected_objects(
    fleet: Fleet,
    tool: ToolListing,
    arguments: Mapping[str, Any],
    hosts: Sequence[str],
    *,
    seen: Mapping[str, Mapping[str, Outcome]] | None = None,
    lister: ListObjectsOn | None = None,
) -> dict[str, ExpectedObjects]:
    """Return the current state of the objects that a change names, for each host that has any of them.

    `seen`: listings that were fetched already, by kind.
    """
    if tool.reads or not hosts:
        return {}
    there: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {host: {} for host in hosts}
    named = _named_objects(tool, arguments)
    for kind in dict.fromkeys(kind for kind, _ in named):
        outcomes = (seen or {}).get(kind) or await (lister or partial(list_objects, fleet))(kind, hosts)
        for host, outcome in ((host, outcomes[host]) for host in hosts if host in outcomes):
            listed = rows(kind, outcome)
            for name in (name for of_kind, name in named if of_kind == kind):
                if row := next((row for row in listed if matches_name(kind, row, name)), None):
                    there[host][kind, name] = row
    return {host: _expected(found) for host, found in there.items() if found}


async def resolve_ports(
    fleet: Fleet, tool: ToolListing, arguments: Mapping[str, Any], hosts: Sequence[str]
) -> dict[str, Any]:
    """Fill in ports that depend on the image, so that the approval prompt shows them.

    They stay unresolved if a host does not have the image yet.

    Raises:
        Conflict: the image exposes several ports.
    """
    settled = dict(arguments)
    for name, of in tool.ports_of.items():
        image, typed = str(arguments.get(of) or ""), [str(one) for one in arguments.get(name) or ()]
        parsed = [ports.parse_port(one) for one in typed]
        if not image or not any(isinstance(one, ports.HostPort) for one in parsed):
            continue
        offered = await _image_ports(fleet, image, hosts)
        if offered:
            pairs = zip(typed, parsed, strict=True)
            settled[name] = [new for one, port in pairs for new in _port_mappings(one, port, offered, image)]
    return settled


def _port_mappings(
    typed: str, port: ports.PortMapping | ports.HostPort, offered: Sequence[str], image: str
) -> list[str]:
    if isinstance(port, ports.PortMapping):
        return [typed]
    return [ports.format_port(one) for one in ports.resolve_port(port, offered, image)]


async def _image_ports(fleet: Fleet, image: str, hosts: Sequence[str]) -> list[str]:
    """Return the ports that an image exposes; empty if hosts differ or one does not have the image."""
    lookup = LOOKUPS["image"]
    short = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    found: list[list[str]] = []
    for outcome in (await fleet.call_many(hosts, lookup.tool, {"name": short})).values():
        known = next((row for row in rows("image", outcome) if matches_name("image", row, image)), None)
        found.append([str(one) for one in (known or {}).get("ports") or ()])
    return found[0] if found and all(one == found[0] for one in found) else []


def changed_objects(tool: ToolListing, arguments: Mapping[str, Any]) -> set[str]:
    """Return the objects that a call changes, spelled as the keys of `ExpectedObjects.others`."""
    changed = {**tool.names, **tool.makes}
    return {f"{kind} {arguments[name]}" for name, kind in changed.items() if arguments.get(name)}


def _named_objects(tool: ToolListing, arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    marked = {**tool.names, **tool.uses}
    named = [(kind, str(arguments[name])) for name, kind in marked.items() if arguments.get(name)]
    return [(kind, name) for kind, name in named if kind in LOOKUPS]


def _expected(rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> ExpectedObjects:
    container = next((row for (kind, _), row in rows.items() if kind == "container"), {})
    others = {f"{kind} {name}": _identity(kind, row) for (kind, name), row in rows.items() if kind != "container"}
    return ExpectedObjects(str(container.get("id", "")), str(container.get("state", "")), others)


def _identity(kind: str, row: Mapping[str, Any]) -> str:
    """Return what identifies an object; volumes and stacks have no id, see `server.engine.lookup.identity`."""
    if kind == "stack":
        return str(row["name"])
    return f"{row['name']}@{row['created']}" if kind == "volume" else str(row["id"])
