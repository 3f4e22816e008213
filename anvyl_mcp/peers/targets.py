"""Which hosts a call goes to when nobody said, or said it loosely."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from anvyl_mcp import text
from anvyl_mcp.errors import AnvylError, ApprovalNeeded, Conflict, InvalidInput, NotFound, Unreachable, did_you_mean
from anvyl_mcp.peers.fleet import Expected, Fleet, Outcome
from anvyl_mcp.peers.listing import ToolListing


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


Look = Callable[[str], Awaitable[Mapping[str, Outcome]]]
"""Every host's objects of one kind, as `find` gives them."""


async def targets(
    fleet: Fleet, tool: ToolListing, arguments: Mapping[str, Any], selector: str = "", *, look: Look | None = None
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
        return await _where_all(look or partial(find, fleet), tool, named)
    if tool.reads:
        return hosts
    raise InvalidInput(
        f"`{tool.name}` needs a host: there are {text.joined(hosts)}",
        hint="name one, like --host " + hosts[0],
        call_hint=f'give one as `host`, like "{hosts[0]}"',
    )


async def find(fleet: Fleet, kind: str) -> dict[str, Outcome]:
    """Every host's objects of one kind."""
    lookup = LOOKUPS[kind]
    return await fleet.call_many(fleet.hosts, lookup.tool, lookup.arguments)


async def places(fleet: Fleet, kind: str) -> dict[str, list[str]]:
    """The names of all objects of one kind, with the hosts that have each; of the hosts that answer."""
    found: dict[str, list[str]] = {}
    for host, outcome in (await find(fleet, kind)).items():
        for name in set(names_in(kind, outcome)):
            found.setdefault(name, []).append(host)
    return found


def names_in(kind: str, outcome: Outcome) -> list[str]:
    """The names of the objects that one host listed."""
    return [name for row in _rows(kind, outcome) for name in _names(kind, row)]


Found = dict[str, Mapping[str, Outcome]]
"""Kind of object → what each host listed of it."""


def once(fleet: Fleet, found: Found) -> Look:
    """A look that asks for each kind once, for several calls of one command; `found` is what it has seen."""

    async def look(kind: str) -> Mapping[str, Outcome]:
        if kind not in found:
            found[kind] = await find(fleet, kind)
        return found[kind]

    return look


async def as_it_is(fleet: Fleet, host: str, wanted: str) -> Expected:
    """The container that a name means on one host now.

    Raises:
        NotFound: the host has none of that name.
        AnvylError: it cannot be asked.
    """
    lookup = LOOKUPS["container"]
    outcome = await fleet.call(host, lookup.tool, lookup.arguments)
    if outcome.error is not None:
        raise outcome.error
    for row in _rows("container", outcome):
        if is_meant("container", row, wanted):
            return Expected(str(row.get("id", "")), str(row.get("state", "")))
    raise _nowhere("container", wanted, {host: outcome}, {})


async def _where_all(look: Look, tool: ToolListing, named: list[tuple[str, str]]) -> list[str]:
    """Where the object lives that is on the fewest hosts: `web` has one, the network `bridge` is on all of them."""
    error: Conflict | None = None
    for kind, wanted in sorted(named, key=lambda one: one[0] != "container"):
        try:
            return await _where(look, tool, kind, wanted)
        except Conflict as several:
            error = error or several
    assert error is not None
    raise error


async def _where(look: Look, tool: ToolListing, kind: str, wanted: str) -> list[str]:
    outcomes = await look(kind)
    having = [
        host for host, outcome in outcomes.items() if any(is_meant(kind, row, wanted) for row in _rows(kind, outcome))
    ]
    silent = {host: outcome.error for host, outcome in outcomes.items() if outcome.error is not None}
    if not having:
        raise _nowhere(kind, wanted, outcomes, silent)
    if tool.reads:
        return having
    if len(having) > 1:
        raise Conflict(
            f"{text.joined(having)} all have a {kind} `{wanted}`"
            if len(having) > 2
            else f"both {text.joined(having)} have a {kind} `{wanted}`",
            hint=f"name the host, like --host {having[0]}; or all",
            call_hint=f'give the one that is meant as `host`, like "{having[0]}"; or "all"',
        )
    if silent:
        raise ApprovalNeeded(
            f"{kind} `{wanted}` is on {having[0]}, but {_reasons(silent)}, so it may be there too",
            hint=f"say it again with the host: --host {having[0]}",
            call_hint=f'ask the person; with their yes call it again with "{having[0]}" as `host`',
        )
    return having


def _nowhere(kind: str, wanted: str, outcomes: Mapping[str, Outcome], silent: Mapping[str, AnvylError]) -> AnvylError:
    known = [name for outcome in outcomes.values() for row in _rows(kind, outcome) for name in _names(kind, row)]
    if len(silent) == len(outcomes):
        return Unreachable(
            f"no host could be asked: {_reasons(silent)}", hint="see `anvyl hosts check`", call_hint="see `list_hosts`"
        )
    but = f"; {_reasons(silent)}" if silent else ""
    hint = did_you_mean(wanted, known) or f"there are no {kind}s"
    return NotFound(f"no host has a {kind} `{wanted}`{but}", hint=hint)


def _reasons(silent: Mapping[str, AnvylError]) -> str:
    return ", ".join(f"{host} could not be asked ({error.message})" for host, error in silent.items())


def _rows(kind: str, outcome: Outcome) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (outcome.answer.result or {}).get(LOOKUPS[kind].rows, [])
    return rows


def _names(kind: str, row: Mapping[str, Any]) -> list[str]:
    """The names of one object: an image may have several, or none."""
    value = row[LOOKUPS[kind].field]
    return list(value) if isinstance(value, list) else [value]


def is_meant(kind: str, row: Mapping[str, Any], wanted: str) -> bool:
    """Whether a row is the object meant: by a name, or by the start of its id as the engine accepts it."""
    known = _names(kind, row)
    if kind == "container":
        wanted = wanted.removeprefix("/")
    if kind == "image" and _reference(wanted) in map(_reference, known):
        return True
    return wanted in known or (
        len(wanted) >= 4 and str(row.get("id", "")).startswith(wanted.removeprefix("sha256:")[:12])
    )


def _reference(image: str) -> str:
    """An image reference in its short form, with its tag."""
    short = image.removeprefix("index.").removeprefix("docker.io/").removeprefix("library/")
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"
