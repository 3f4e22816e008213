"""Names given for containers that are stacks: `restart immich` restarts the whole application."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.fleet.targets import ListedObjects, list_objects, matches_name, rows

STACK_TOOLS: Mapping[str, str] = {
    "get_container_info": "get_stack_info",
    "get_container_logs": "get_stack_logs",
    "start_container": "start_stack",
    "stop_container": "stop_stack",
    "restart_container": "restart_stack",
    "remove_container": "remove_stack",
}
"""The tool that does to a stack what another tool does to one container."""


def stacks_in(
    names: Sequence[str], containers: Mapping[str, Outcome], stacks: Mapping[str, Outcome] | None = None
) -> list[str]:
    """The names that surely no container has, and that a stack has. Without `stacks`, only the former counts."""
    missing = [
        name
        for name in names
        if all(
            one.error is None and not any(matches_name("container", row, name) for row in rows("container", one))
            for one in containers.values()
        )
    ]
    if stacks is None:
        return missing
    existing = {str(row["name"]) for one in stacks.values() for row in rows("stack", one) if row["state"] != "removed"}
    return [name for name in missing if name in existing]


async def stacks_among(fleet: Fleet, names: Sequence[str], selector: str, found: ListedObjects) -> list[str]:
    """The names that no container has but a stack does. Adds the listings that it needed to `found`."""
    try:
        hosts = fleet.select(selector) if selector else fleet.hosts
    except AnvylError:
        # The call itself reports the unknown host.
        return []
    containers = await _listed(fleet, "container", hosts, found)
    if not stacks_in(names, containers):
        return []
    return stacks_in(names, containers, await _listed(fleet, "stack", hosts, found))


async def containers_of(fleet: Fleet, names: Sequence[str], selector: str, found: ListedObjects) -> list[str]:
    """The names, with each stack among them replaced by its containers."""
    stacks = await stacks_among(fleet, names, selector, found)
    if not stacks:
        return list(names)
    members: dict[str, list[str]] = {name: [] for name in stacks}
    for row in (row for one in found["container"].values() for row in rows("container", one)):
        if row.get("stack") in members:
            members[row["stack"]].append(str(row["name"]))
    return list(dict.fromkeys(one for name in names for one in members.get(name) or [name]))


def stack_arguments(tool: ToolListing, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a container's tool that the one for a stack has too, and the host."""
    return {name: value for name, value in arguments.items() if name in tool.arguments or name == "host"}


async def _listed(fleet: Fleet, kind: str, hosts: Sequence[str], found: ListedObjects) -> Mapping[str, Outcome]:
    if kind not in found:
        found[kind] = await list_objects(fleet, kind)
    return {host: found[kind][host] for host in hosts if host in found[kind]}
