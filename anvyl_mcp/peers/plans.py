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
    """The container that a change names, as it is now on each host; a host that cannot be asked is left out."""
    names = [arguments[name] for name, kind in tool.names.items() if kind == "container" and arguments.get(name)]
    if tool.reads or not names or not hosts:
        return {}
    lookup = LOOKUPS["container"]
    outcomes = await fleet.call_many(hosts, lookup.tool, lookup.arguments)
    found = {}
    for host, outcome in outcomes.items():
        rows = (outcome.answer.result or {}).get(lookup.rows, [])
        if row := next((row for row in rows if is_meant("container", row, str(names[0]))), None):
            found[host] = Expected(str(row["id"]), str(row["state"]))
    return found
