"""What the words of a question leave a plan to choose from: intents, tools, hosts and names.

A small model fills in whatever a grammar lets it, so it is offered little; what it chooses passes the same checks as
the calls of any other model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.checks.call_checks import CallChecks
from anvyl_mcp.orchestrator.checks.resolve import FleetObject
from anvyl_mcp.orchestrator.language import questions
from anvyl_mcp.orchestrator.language.grounding import ground_arguments, images_in, near, words_of
from anvyl_mcp.orchestrator.language.intent import verbs_of, words_after
from anvyl_mcp.orchestrator.language.normalize import mask, plain
from anvyl_mcp.orchestrator.language.places import named, said_hosts
from anvyl_mcp.orchestrator.language.vocabulary import REFUSING
from anvyl_mcp.orchestrator.models.plan_prompt import INTENTS, PlanOptions
from anvyl_mcp.orchestrator.question import Question
from anvyl_mcp.orchestrator.rules.results import aggregate
from anvyl_mcp.orchestrator.rules.results.measures import measures
from anvyl_mcp.orchestrator.rules.tool_scores import fits
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.targets import LOOKUPS

COMPARES = re.compile(
    r"\b(?:most|least|more|less|free|freest|largest|smallest|biggest|best|busiest|idle|room|whichever|where|which|lowest"
    r"|highest|fewest|emptiest|oldest|newest)\b",
    re.IGNORECASE,
)
"""Words of a question whose host depends on a comparison of hosts."""
ABOUT_USAGE = re.compile(
    r"\b(?:cpu|processor|memory|ram|disk|i/?o|network|traffic|stat(?:s|istics)|usage|use[sd]?|using|eat(?:s|ing)?|busy|load"
    r"|hog\w*|hungr\w+|heav\w+|slow\w*|resources?|consum\w+|percent|much|most|least|biggest|largest|big|gb|mb|gigs?)\b|%",
    re.IGNORECASE,
)
"""Words of questions about resource usage."""
CLEAR_SCORE = 1.2
"""Score that more than one word supports."""
RELATIVE_SCORE = 0.5
"""Fraction of the best score from which a tool is still offered."""


class PlanScope:
    """What plans for one question may contain."""

    def __init__(self, question: Question, checks: CallChecks) -> None:
        self._question = question
        self._said = f"{question.earlier}\n{question.text}".strip()
        self._english = checks.english
        self._wish = checks.wish
        self._places = checks.places
        self._inventory = checks.inventory

    async def options(
        self, listings: Sequence[ToolListing], hosts: Sequence[str], *, planned: bool, found: bool
    ) -> PlanOptions:
        """Schema options for a plan. `planned`: it is the second one; `found`: after reads that succeeded.

        They are not part of the prompt, so that a server finds it in its cache.
        """
        wish, text = self._wish, self._question.text
        allowed = [listing for listing in listings if self._may_be_asked_for(listing)]
        changes = [listing for listing in allowed if not listing.reads]
        reads = [listing for listing in allowed if listing.reads]
        if await self._names_an_object(changes):
            changes = [listing for listing in changes if listing.names]
        kinds = {kind for listing in (*changes, *reads) for kind in listing.names.values()}
        names = {kind: await self._names(kind, found=found) for kind in sorted(kinds)}
        # What the words do not name at all is looked for first.
        changes = [one for one in changes if all(names[one.names[name]] for name in one.names if name in one.required)]
        needs_reads = wish.intent != "change" or wish.asks or bool(COMPARES.search(self._said))
        tools = changes if changes and (planned or not needs_reads) else changes + reads
        if wish.intent != "change" and (query := questions.read(plain(mask(text)[0], asks=True))):
            tools = [chosen] if (chosen := aggregate.chosen(query, reads)) else tools
        elif wish.intent == "read":
            tools = await self._best_scored(await self._reads_for_named(reads))
        intents = INTENTS[wish.intent if changes or wish.intent != "change" else "unclear"]
        # Without a look at the hosts, nothing but the words can say where to put something new.
        return PlanOptions(intents, tools, self._hosts_said(), [*hosts, "all"] if found else [], names, images_in(text))

    def fitted(self, listing: ToolListing, given: Mapping[str, Any], options: PlanOptions) -> dict[str, Any]:
        """Arguments of a planned call without options that the words do not mention, and on the hosts that they name.

        A grammar knows which options there are, but not which of them a person spoke of.
        """
        arguments = ground_arguments(
            listing, {name: value for name, value in given.items() if name != "host"}, self._said
        )
        hosts = [host.strip() for host in str(given.get("host") or "").split(",") if host.strip()]
        if not hosts or not set(hosts) <= set(options.hosts_for(listing)):
            hosts = self._places_said(listing)
        return {**arguments, "host": ",".join(hosts)} if hosts else arguments

    def _may_be_asked_for(self, listing: ToolListing) -> bool:
        if listing.reads:
            return True
        if self._wish.verbs:
            return bool(self._wish.verbs & verbs_of(listing))
        return self._wish.intent != "read" and listing.safety != "destroys"

    async def _names_an_object(self, tools: Sequence[ToolListing]) -> bool:
        """Whether the question names, literally, an object that one of these tools acts on."""
        kinds = {kind for listing in tools for kind in listing.names.values()}
        objects = [one for kind in sorted(kinds) for one in await self._inventory.objects(kind)]
        return any(named(self._said, one.name) for one in objects)

    async def _names(self, kind: str, *, found: bool) -> list[str]:
        """Names that a call may use: those that the question may refer to; after a look at the hosts, all.

        If there is no such object, it is the person's own word, and the checks say which names there are.
        """
        candidates = await self._candidates(kind)
        if not candidates and found:
            candidates = await self._inventory.objects(kind)
        return sorted({one.name for one in candidates}) or words_after(self._english, self._wish.verbs)

    async def _candidates(self, kind: str) -> list[FleetObject]:
        """The objects of a kind that the question may refer to."""
        return resolve.candidates(self._said, await self._inventory.objects(kind), self._places.hosts)

    def _hosts_said(self) -> list[str]:
        """Hosts, tags and `all` that the question names, in whatever spelling."""
        found = self._places.hosts_named(self._said)
        words = words_of(self._said)
        return found or [host for host in self._places.hosts if any(near(word, host) for word in words)]

    def _places_said(self, listing: ToolListing) -> list[str]:
        """The hosts for a call without one, if the words name them as places and mean nothing else by them."""
        text, hosts = self._question.text, self._places.hosts
        if listing.toolset == "fleet" or self._question.host or REFUSING.search(text):
            return []
        said = said_hosts(text, hosts)
        if not said and not listing.reads and not listing.names:
            said = [host for host in hosts if named(text, host)]
        return said if listing.reads or len(said) == 1 else []

    async def _reads_for_named(self, reads: list[ToolListing]) -> list[ToolListing]:
        """Reading tools for the named container; if none is named, those that need no name."""
        if not ABOUT_USAGE.search(self._question.text):
            reads = [listing for listing in reads if listing.toolset != "containers" or not _returns_usage(listing)]
        if not await self._candidates("container"):
            return [listing for listing in reads if not set(listing.names) & set(listing.required)]
        if COMPARES.search(self._question.text):
            return reads
        lookup = LOOKUPS["container"].tool
        return [listing for listing in reads if "container" in listing.names.values() or listing.name == lookup]

    async def _best_scored(self, reads: list[ToolListing]) -> list[ToolListing]:
        """Reading tools with the best scores; all of them if no score is clear."""
        is_named = bool(await self._candidates("container"))
        found = fits(self._places.without(self._question.text), reads, named=is_named)
        best = found[0].weight if found else 0.0
        if best < CLEAR_SCORE:
            return reads
        return [fit.listing for fit in found if fit.weight >= RELATIVE_SCORE * best]


def _returns_usage(listing: ToolListing) -> bool:
    """Whether the tool returns resource usage."""
    return any(measure.words & questions.KINDS for measure in measures(listing))
