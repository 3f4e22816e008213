"""How things are when a change is decided, so that it is made only while they still are so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anvyl_mcp.peers.fleet import Expected, Fleet
from anvyl_mcp.peers.listing import ToolListing
from anvyl_mcp.peers.targets import LOOKUPS, is_meant


async def expected(
    fleet: Fleet, tool: ToolListing, arguments: Mapping[str, Any], hosts: Sequence[str]
) -> dict[str, Expected]:
    """The objects that a change names, as they are now on each host; a host that has none of them is left out."""
    if tool.reads or not hosts:
        return {}
    rows: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {host: {} for host in hosts}
    named = _named(tool, arguments)
    for kind in dict.fromkeys(kind for kind, _ in named):
        lookup = LOOKUPS[kind]
        for host, outcome in (await fleet.call_many(hosts, lookup.tool, lookup.arguments)).items():
            listed = (outcome.answer.result or {}).get(lookup.rows, [])
            for name in (name for of_kind, name in named if of_kind == kind):
                if row := next((row for row in listed if is_meant(kind, row, name)), None):
                    rows[host][kind, name] = row
    return {host: _expected(found) for host, found in rows.items() if found}


def touched(tool: ToolListing, arguments: Mapping[str, Any]) -> set[str]:
    """The objects, as `Expected.others` calls them, that are no longer as they were once a call is done."""
    changed = {**tool.names, **tool.makes}
    return {f"{kind} {arguments[name]}" for name, kind in changed.items() if arguments.get(name)}


def _named(tool: ToolListing, arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    marked = {**tool.names, **tool.uses}
    named = [(kind, str(arguments[name])) for name, kind in marked.items() if arguments.get(name)]
    return [(kind, name) for kind, name in named if kind in LOOKUPS]


def _expected(rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> Expected:
    container = next((row for (kind, _), row in rows.items() if kind == "container"), {})
    others = {f"{kind} {name}": _identity(kind, row) for (kind, name), row in rows.items() if kind != "container"}
    return Expected(str(container.get("id", "")), str(container.get("state", "")), others)


def _identity(kind: str, row: Mapping[str, Any]) -> str:
    """A volume has no id; its host tells it from others as `server.objects.identity` does."""
    return f"{row['name']}@{row['created']}" if kind == "volume" else str(row["id"])
