"""Steps of calls that the rules have planned: what they name, where they act, and whether they only look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from typing import Any

from anvyl_mcp.orchestrator.language.grounding import named, said_hosts
from anvyl_mcp.orchestrator.language.questions import Query, Wants
from anvyl_mcp.orchestrator.language.vocabulary import meaning
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.peers.connection.listing import ToolListing

Step = list[Call]
"""Calls that are made together; the next step waits until they have gone well."""
Otherwise = Callable[[str, Iterable[ToolListing]], Awaitable[list[Step]]]
"""Reads a question that no phrase fits."""


def calls_of(steps: Sequence[Step]) -> list[Call]:
    """The calls of all steps, in their order."""
    return [call for step in steps for call in step]


def share_hosts(steps: Sequence[Step], first: str, placeable: Set[str]) -> bool:
    """Hosts named before or after all clauses count for each; false when a clause names its own as well."""
    calls = [call for call in calls_of(steps) if call.listing.name in placeable]
    own = [call for call in calls if "host" in call.arguments]
    if not first and own and all(call in steps[-1] for call in own):
        first, own = own[0].arguments["host"], []
    for call in calls if first else []:
        call.arguments["host"] = first
    return not (first and own)


def keep_said_hosts(steps: Sequence[Step], masked: str, known: Iterable[str], placeable: Set[str]) -> bool:
    """Add hosts that are named where no phrase expects them; false when that would be a guess."""
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
