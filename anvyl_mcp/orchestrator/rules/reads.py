"""Parse free-form questions by keyword score: the best reading tools, for the named objects and hosts.

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
"""Minimum lead over the next score."""
OF_ITS_OWN = 0.9
"""Score of words matched by no other tool from which a second tool is called too."""
MOST_OBJECTS = 4
TROUBLE = re.compile(
    r"\b(?:why|wrong|reason|cause|crash\w*|broken|fail\w*|unhealthy|died|dies|going on|problems?|trouble|matter"
    r"|happened to|kept|keeps|not work\w*|doesn'?t work|won'?t|stopped working)\b",
    re.IGNORECASE,
)
"""Questions about what is wrong with an object, answered from its state and log."""
BROKEN = re.compile(
    r"\b(?:why|wrong|broken|crash\w*|fail\w*|unhealthy|died|dies|problems?|trouble|not work\w*|doesn'?t work)\b",
    re.IGNORECASE,
)
"""The same without a named object."""
LAST_LINES = 20
UNABLE = re.compile(
    r"^\W*(?:(?:please|hey|anvyl|can you|could you|would you)\W+)*"
    r"(?:send|e-?mail|text|notify|alert|remind|call|schedule|book|order|buy|write|post|tweet|translate|sing|put)\b"
    r"|\bwhenever\b|\bevery\s+(?:\w+day|day|night|morning|evening|hour|week|month|\d+)\b",
    re.IGNORECASE,
)
"""Requests that no read can answer."""


class Freely:
    """Parses one question once; later steps use the same parse although the fleet has changed."""

    def __init__(self, guard: Guard, fleet: Fleet, *, only_clearly: bool = False) -> None:
        """`only_clearly`: stricter, for use before a language model."""
        self._guard = guard
        self._fleet = fleet
        self._only_clearly = only_clearly
        self._steps: list[list[Call]] | None = None

    async def steps(self, said: str, tools: Iterable[ToolListing]) -> list[list[Call]]:
        """Steps of calls, in order; empty if the question is not understood.

        Raises:
            NotUnderstood: no tool can do it.
            UnknownHost: an unknown host is named.
            Conflict: the object of a change is ambiguous.
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
            raise NotUnderstood(f"{done.message}; nothing was changed", hint="ask for the rest separately") from done

    async def _looks(self, said: str, tools: Sequence[ToolListing]) -> list[list[Call]]:
        masked, quoted = mask(said)
        places = ",".join(place for place in self._guard.hosts_named() if place != "all")
        rest = self._guard.without_hosts(said)
        if UNABLE.search(said):
            if self._only_clearly:
                return []
            raise NotUnderstood(
                f"no tool of these hosts can do `{text.clean(said.strip())[:80]}`",
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
        """Containers named in the words, by name or by image."""
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
        """For `what is wrong`: the list, and the logs of unhealthy containers."""
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
        """Arguments of each call: one per named object, if the tool takes one."""
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
    """Weight of a tool for the named objects; a host's tool says little about a container."""
    takes = "container" in tool.names.values() or "name" in tool.arguments
    if names:
        return (1.3 if tool.required else 1.0) if takes else 0.45
    return 0.0 if tool.required else 1.0
