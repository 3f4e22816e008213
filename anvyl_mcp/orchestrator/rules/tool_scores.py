"""Score reading tools by the words of a question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from anvyl_mcp.orchestrator.language import questions
from anvyl_mcp.orchestrator.language.normalize import mask, plain
from anvyl_mcp.orchestrator.language.stemming import at, mended, stems
from anvyl_mcp.orchestrator.language.vocabulary import HOST
from anvyl_mcp.orchestrator.rules.results import aggregate
from anvyl_mcp.peers.connection.listing import ToolListing

LEAST = 0.45
"""Minimum score of a tool."""
HOSTS = re.compile(rf"\b{HOST}\b", re.IGNORECASE)


@dataclass(frozen=True)
class Fit:
    """Score of a tool for a question, with the positions of the matching words."""

    listing: ToolListing
    weight: float
    words: frozenset[int]


def fits(said: str, tools: Sequence[ToolListing], *, of_hosts: bool = False, named: bool = False) -> list[Fit]:
    """Score all tools. `of_hosts`: the question mentions hosts; `named`: it names containers.

    A word that speaks for several tools speaks less for each, one of a phrase more than one alone.
    """
    cues = {tool.name: cues_of(tool) for tool in tools}
    words = mended(stems(said), {word for own in cues.values() for cue in own for word in cue})
    shared: dict[tuple[str, ...], int] = {}
    for own in cues.values():
        for cue in own:
            shared[cue] = shared.get(cue, 0) + 1
    query = questions.read(plain(mask(said)[0], asks=True))
    asked = aggregate.chosen(query, [one for one in tools if not one.required or named]) if query else None
    found = []
    for tool in tools:
        weight, covered = 0.0, frozenset[int]()
        for cue in sorted(cues[tool.name], key=lambda cue: (-len(cue), shared[cue])):
            where = at(cue, words)
            if where - covered:
                weight += (0.5 if cue == ("host",) else 1 + 0.6 * (len(cue) - 1)) / shared[cue] ** 0.8
                covered |= where
        weight += 0.7 if tool is asked else 0
        if (of_hosts or HOSTS.search(said)) and not named and tool.toolset == "host" and "container" not in words:
            weight *= 1.25
        found.append(Fit(tool, weight, covered))
    return found


def cues_of(tool: ToolListing) -> list[tuple[str, ...]]:
    """Cues of a tool as stems: its words, and its phrases without placeholders."""
    cues = [tuple(stems(words)) for words in (*tool.about, *(re.sub(r"\{\w+\}", "", phrase) for phrase in tool.say))]
    return list(dict.fromkeys(cue for cue in cues if cue))
