"""Reads what is no phrase: the looking tools that a question speaks of most, for what it names, where it says.

A wrong guess costs a look at something else; so looking is guessed, and a change never is (`orders` needs it in words).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NothingToDo, NotUnderstood
from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.checks.guard import Guard
from anvyl_mcp.orchestrator.language import phrases
from anvyl_mcp.orchestrator.language.argument_phrases import take_options
from anvyl_mcp.orchestrator.language.grounding import ALSO_STOPPED, named
from anvyl_mcp.orchestrator.language.intent import clauses
from anvyl_mcp.orchestrator.language.normalize import mask, plain
from anvyl_mcp.orchestrator.language.stemming import stem, stems
from anvyl_mcp.orchestrator.language.vocabulary import EMPTY, STANDS_FOR
from anvyl_mcp.orchestrator.reader_thread import ReaderThread
from anvyl_mcp.orchestrator.rules.changes import Orders
from anvyl_mcp.orchestrator.rules.results import aggregate
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.orchestrator.rules.tool_scores import HOSTS, LEAST, Fit, cues_of, fits
from anvyl_mcp.orchestrator.rules.unread_words import only_names
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.hosts import registry

CLEARLY = 1.35
"""How much more than for the next, to be clear."""
OF_ITS_OWN = 0.9
"""Evidence of words that speak for no other, with which a second tool is asked as well."""
MOST_OBJECTS = 4
TROUBLE = re.compile(
    r"\b(?:why|wrong|reason|cause|crash\w*|broken|fail\w*|unhealthy|died|dies|going on|problems?|trouble|matter"
    r"|happened to|kept|keeps|not work\w*|doesn'?t work|won'?t|stopped working)\b",
    re.IGNORECASE,
)
"""Words of somebody who wants to know what is wrong with a thing: its state and its log say that together."""
BROKEN = re.compile(
    r"\b(?:why|wrong|broken|crash\w*|fail\w*|unhealthy|died|dies|problems?|trouble|not work\w*|doesn'?t work)\b",
    re.IGNORECASE,
)
"""The same, where no thing is named."""
LAST_LINES = 20
UNABLE = re.compile(
    r"^\W*(?:(?:please|hey|anvyl|can you|could you|would you)\W+)*"
    r"(?:send|e-?mail|text|notify|alert|remind|call|schedule|book|order|buy|write|post|tweet|translate|sing|put)\b"
    r"|\bwhenever\b|\bevery\s+(?:\w+day|day|night|morning|evening|hour|week|month|\d+)\b",
    re.IGNORECASE,
)
"""Begins or belongs to what no look can answer."""


class Freely:
    """Reads one question; keeps what it read, because later steps are due when the fleet has changed."""

    def __init__(self, guard: Guard, fleet: Fleet, *, only_clearly: bool = False) -> None:
        """`only_clearly`: for one who asks this before a language model."""
        self._guard = guard
        self._fleet = fleet
        self._only_clearly = only_clearly
        self._steps: list[list[Call]] | None = None

    async def steps(self, said: str, tools: Iterable[ToolListing]) -> list[list[Call]]:
        """What to call, in order; nothing when the words do not say it.

        Raises:
            NotUnderstood: no tool does such a thing.
            UnknownHost: a host is named that is not known.
            Conflict: it is left open which of several things is to be changed.
        """
        if self._steps is None:
            offered = list(tools)
            if unknown := await self._guard.unknown_host(mask(said)[0]):
                if not self._only_clearly:
                    raise registry.unknown_host_error(unknown, self._fleet.hosts)
                self._steps = []
            elif self._guard.wish.intent == "change":
                self._steps = await self._ordered(said, offered)
            else:
                self._steps = await self._looks(said, [one for one in offered if one.reads])
        return self._steps

    async def _ordered(self, said: str, tools: Sequence[ToolListing]) -> list[list[Call]]:
        try:
            return await Orders(self._guard, self._fleet, said, tools).steps()
        except NothingToDo as done:
            if sum(bool(clause.verbs) for clause in clauses(said, tools)) < 2:
                raise
            raise NotUnderstood(f"{done.message}; nothing was changed", hint="say the rest by itself") from done

    async def _looks(self, said: str, tools: Sequence[ToolListing]) -> list[list[Call]]:
        masked, quoted = mask(said)
        places = ",".join(place for place in self._guard.hosts_named() if place != "all")
        rest = self._guard.without_hosts(said)
        if UNABLE.search(said):
            if self._only_clearly:
                return []
            raise NotUnderstood(
                f"no tool of these hosts does what `{text.clean(said.strip())[:80]}` asks for",
                hint=phrases.examples(tools, said),
            )
        names = await self._named(rest, tools)
        weighed = partial(fits, rest, tools, of_hosts=bool(places) or bool(HOSTS.search(said)), named=bool(names))
        found = await ReaderThread().run(weighed)
        suited = [replace(fit, weight=fit.weight * _suits(fit.listing, names)) for fit in found]
        chosen = self._chosen(sorted(suited, key=lambda fit: -fit.weight), said, rest, names)
        if (
            not names
            and BROKEN.search(said)
            and (not chosen or chosen[0].required or aggregate.listed(chosen[0]) == "container")
        ):
            chosen, names = await self._troubled(tools, places)
        step = []
        for listing in chosen:
            _, values = take_options(plain(masked, asks=True), listing.arguments, quoted)
            host = {"host": places} if places and listing.toolset != "fleet" else {}
            step += [Call(listing, {**given, **host}) for given in self._about(listing, values, names, said)]
        return [step] if step else []

    async def _named(self, rest: str, tools: Sequence[ToolListing]) -> list[str]:
        """The containers that the words name, by name or by what they run."""
        objects = await self._guard.inventory.objects("container")
        if found := sorted({one.name for one in objects if named(rest, one.name)}):
            return found
        ours = {word for tool in tools for cue in cues_of(tool) for word in cue}
        words = [
            word
            for word in re.findall(r"[a-z][\w.-]*", rest.lower())
            if len(word) > 2 and word not in EMPTY and word not in STANDS_FOR and stem(word) not in ours
        ]
        return sorted({one.name for one in resolve.best_matches(words, objects)})

    async def _troubled(self, tools: Sequence[ToolListing], places: str) -> tuple[list[ToolListing], list[str]]:
        """For somebody who asks what is wrong: the list, and the logs of the containers that are not well."""
        hosts = self._fleet.select(places) if places else ()
        objects = await self._guard.inventory.objects("container", hosts)
        names = sorted({one.name for one in objects if aggregate.complaint(one.row)})[:MOST_OBJECTS]
        lists = [one for one in tools if aggregate.listed(one) == "container" and "all" in one.arguments]
        logs = [one for one in tools if one.required and "tail" in one.arguments]
        return lists + (logs if names else []), names

    def _chosen(self, fits: Sequence[Fit], said: str, rest: str, names: Sequence[str]) -> list[ToolListing]:
        best = fits[0] if fits else None
        of_one = [
            fit.listing for fit in fits if fit.listing.required and set(fit.listing.names) == set(fit.listing.required)
        ]
        if names and TROUBLE.search(said) and len(names) <= MOST_OBJECTS:
            return of_one
        if best is None or best.weight < LEAST:
            # What is only named is shown.
            shows = names and not self._only_clearly and len(names) <= MOST_OBJECTS and only_names(rest, names)
            return of_one[-1:] if shows else []
        second = fits[1] if len(fits) > 1 else None
        if second and second.weight * CLEARLY > best.weight:
            apart = [fit for fit in (best, second) if fit.weight >= OF_ITS_OWN and fit.words]
            if len(apart) == 2 and not apart[0].words & apart[1].words and not names:
                return [fit.listing for fit in apart]
            if self._only_clearly:
                return []
        return [best.listing]

    def _about(
        self, listing: ToolListing, values: Mapping[str, Any], names: Sequence[str], said: str
    ) -> list[dict[str, Any]]:
        """The arguments of each call: one for each thing that is named, when the tool is about one."""
        values = {name: value for name, value in values.items() if name not in ("name", "grep")}
        if "all" in listing.arguments and (names or ALSO_STOPPED.search(said)):
            values["all"] = True
        if "tail" in listing.arguments and "tail" not in values and TROUBLE.search(said):
            values["tail"] = LAST_LINES
        for name, schema in listing.arguments.items():
            spoken = [choice for choice in schema.get("enum", ()) if stem(choice) in stems(said)]
            if spoken:
                values[name] = spoken[0]
        argument = next(iter(listing.names), "name" if "name" in listing.arguments else "")
        if not listing.required and not any(named(said, name) for name in names) and len(names) > 1:
            argument = ""
        if not argument or not names:
            return [values]
        return [{**values, argument: name} for name in names[:MOST_OBJECTS]]


def _suits(tool: ToolListing, names: Sequence[str]) -> float:
    """Whether a tool can be about what is named: a host's own tool says little about a container."""
    takes = "container" in tool.names.values() or "name" in tool.arguments
    if names:
        return (1.3 if tool.required else 1.0) if takes else 0.45
    return 0.0 if tool.required else 1.0
