"""Names given for containers that are stacks: `restart immich` restarts the whole application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.core.protocol_keys import STACK_TOOLS
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.fleet.targets import ListedObjects, list_objects, matches_name, rows

ListOn = Callable[[str, Sequence[str]], Awaitable[Mapping[str, Outcome]]]
"""Lists the objects of one kind on some hosts."""


def stacks_in(names: Sequence[str], containers: Mapping[str, Outcome]) -> list[str]:
    """The names that a stack has on some host, and no container on any host that answered."""
    listed = [row for one in containers.values() for row in rows("container", one)]
    stacks = {row.get("stack") for row in listed} & set(names)
    return [one for one in names if one in stacks and not any(matches_name("container", row, one) for row in listed)]


async def whole_stack(
    fleet: Fleet, tool: ToolListing, arguments: Mapping[str, Any], selector: str, lister: ListOn
) -> tuple[ToolListing, dict[str, Any]]:
    """The call for a whole stack, if the name in a call about a container is that of a stack and no container."""
    given, name = dict(arguments), arguments.get("name")
    if tool.name not in STACK_TOOLS or not isinstance(name, str) or not name:
        return tool, given
    listed = await lister("container", _selected(fleet, selector))
    stack = fleet.tool(STACK_TOOLS[tool.name])
    if not stacks_in([name], listed) or any(given.get(one) for one in tool.uses if one not in stack.arguments):
        return tool, given
    return stack, stack_arguments(stack, given)


async def stacks_among(fleet: Fleet, names: Sequence[str], selector: str, found: ListedObjects) -> list[str]:
    """The names that no container has but a stack does. Adds the listing that it needed to `found`."""
    return stacks_in(names, await list_into(fleet, found)("container", _selected(fleet, selector)))


async def containers_of(fleet: Fleet, names: Sequence[str], selector: str, found: ListedObjects) -> list[str]:
    """The names, with each stack among them replaced by its containers."""
    listed = await list_into(fleet, found)("container", _selected(fleet, selector))
    members: dict[str, list[str]] = {name: [] for name in stacks_in(names, listed)}
    for row in (row for one in listed.values() for row in rows("container", one)):
        if row.get("stack") in members:
            members[row["stack"]].append(str(row["name"]))
    return list(dict.fromkeys(one for name in names for one in members.get(name) or [name]))


def list_into(fleet: Fleet, found: ListedObjects) -> ListOn:
    """Return a `ListOn` that asks only hosts whose listing is not in `found` yet, and adds it."""

    async def lister(kind: str, hosts: Sequence[str]) -> Mapping[str, Outcome]:
        seen = {**found.get(kind, {})}
        if unknown := [host for host in hosts if host not in seen]:
            found[kind] = seen = {**seen, **await list_objects(fleet, kind, unknown)}
        return {host: seen[host] for host in hosts}

    return lister


def stack_arguments(tool: ToolListing, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a container's tool that the one for a stack has too, and the host."""
    return {name: value for name, value in arguments.items() if name in tool.arguments or name == "host"}


def _selected(fleet: Fleet, selector: str) -> list[str]:
    """The selected hosts, or all; none if one is unknown, which the call itself reports."""
    try:
        return fleet.select(selector) if selector else fleet.hosts
    except AnvylError:
        return []
