"""Steps of calls that the rules have planned: what they name, where they act, and whether they only look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from anvyl_mcp.orchestrator.answers import Call
from anvyl_mcp.orchestrator.asking import Query, Wants
from anvyl_mcp.orchestrator.vocabulary import meaning
from anvyl_mcp.peers.listing import ToolListing

Step = list[Call]
"""Calls that are made together; the next step waits until they have gone well."""
Otherwise = Callable[[str, Iterable[ToolListing]], Awaitable[list[Step]]]
"""Who is asked what a question may mean that is no phrase."""


def only_look(steps: Sequence[Step]) -> bool:
    """Whether none of the calls changes anything."""
    return all(call.listing.reads for step in steps for call in step)


def names_in(steps: Sequence[Step]) -> list[str]:
    """What the calls name: existing things, or the ones they make."""
    calls = [call for step in steps for call in step]
    named = [[str(call.arguments[name]) for name in call.listing.names if name in call.arguments] for call in calls]
    made = [str(call.arguments.get("name", "")) for call in calls if not call.listing.names]
    return list(dict.fromkeys(name for name in [*(one for names in named for one in names[-1:]), *made] if name))


def host_of(steps: Sequence[Step]) -> str:
    """The one host, or selector, of all calls; empty when they differ."""
    hosts = {str(call.arguments.get("host", "")) for step in steps for call in step}
    return hosts.pop() if len(hosts) == 1 else ""


def placed_at(steps: list[Step], host: str) -> list[Step]:
    """`it` is where it was a moment ago."""
    for call in (call for step in steps for call in step):
        if host and call.listing.names and "host" not in call.arguments:
            call.arguments["host"] = host
    return steps


def implied_values(listing: ToolListing, query: Query) -> dict[str, Any]:
    """Arguments that a question implies: what is sorted by, and that stopped ones count too."""
    values: dict[str, Any] = {}
    for name, schema in listing.arguments.items():
        said = [choice for choice in schema.get("enum", ()) if meaning(choice) in query.words]
        if said:
            values[name] = said[0]
    if "all" in listing.arguments and query.wants in (Wants.WHERE, Wants.TROUBLE):
        values["all"] = True
    return values
