"""Helpers for planned steps of calls: names, hosts, and whether they only read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from typing import Any

from anvyl_mcp.orchestrator.language.grounding import named, said_hosts
from anvyl_mcp.orchestrator.language.questions import Query, Wants
from anvyl_mcp.orchestrator.language.vocabulary import meaning
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.peers.connection.listing import ToolListing

Step = list[Call]
"""Calls made together; the next step waits for their success."""
Otherwise = Callable[[str, Iterable[ToolListing]], Awaitable[list[Step]]]
"""Fallback parser for a question that matches no phrase."""


def calls_of(steps: Sequence[Step]) -> list[Call]:
    """Calls of all steps, in order."""
    return [call for step in steps for call in step]


def share_hosts(steps: Sequence[Step], first: str, placeable: Set[str]) -> bool:
    """Apply hosts named before or after all clauses to each; false if a clause names its own."""
    calls = [call for call in calls_of(steps) if call.listing.name in placeable]
    own = [call for call in calls if "host" in call.arguments]
    if not first and own and all(call in steps[-1] for call in own):
        first, own = own[0].arguments["host"], []
    for call in calls if first else []:
        call.arguments["host"] = first
    return not (first and own)


def keep_said_hosts(steps: Sequence[Step], masked: str, known: Iterable[str], placeable: Set[str]) -> bool:
    """Add hosts named in unexpected places; false if that is ambiguous."""
    calls = [call for call in calls_of(steps) if call.listing.name in placeable]
    taken = " ".join(str(value) for call in calls for value in call.arguments.values())
    hosts = [one for one in known if one[0] != "@" and not named(taken, one)]
    said = ",".join(said_hosts(masked, hosts))
    if not said or any("host" in call.arguments for call in calls):
        return True
    for call in calls:
        call.arguments["host"] = said
    return all(call.listing.reads for call in calls)


def only_look(steps: Sequence[Step]) -> bool:
    """Whether all calls only read."""
    return all(call.listing.reads for step in steps for call in step)


def names_in(steps: Sequence[Step]) -> list[str]:
    """Objects that the calls name or create."""
    calls = [call for step in steps for call in step]
    named = [[str(call.arguments[name]) for name in call.listing.names if name in call.arguments] for call in calls]
    made = [str(call.arguments.get("name", "")) for call in calls if not call.listing.names]
    return list(dict.fromkeys(name for name in [*(one for names in named for one in names[-1:]), *made] if name))


def host_of(steps: Sequence[Step]) -> str:
    """Common host selector of all calls; empty if they differ."""
    hosts = {str(call.arguments.get("host", "")) for step in steps for call in step}
    return hosts.pop() if len(hosts) == 1 else ""


def placed_at(steps: list[Step], host: str) -> list[Step]:
    """Apply the host of the previous step to `it`."""
    for call in (call for step in steps for call in step):
        if host and call.listing.names and "host" not in call.arguments:
            call.arguments["host"] = host
    return steps


def implied_values(listing: ToolListing, query: Query) -> dict[str, Any]:
    """Arguments that a question implies: sort order, and including stopped containers."""
    values: dict[str, Any] = {}
    for name, schema in listing.arguments.items():
        said = [choice for choice in schema.get("enum", ()) if meaning(choice) in query.words]
        if said:
            values[name] = said[0]
    if "all" in listing.arguments and query.wants in (Wants.WHERE, Wants.TROUBLE):
        values["all"] = True
    return values
