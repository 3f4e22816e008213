"""Score reading tools by the words of a question."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language import phrases, questions
from anvyl_mcp.orchestrator.language.argument_phrases import take_options
from anvyl_mcp.orchestrator.language.normalize import mask, plain
from anvyl_mcp.orchestrator.language.places import name_pattern
from anvyl_mcp.orchestrator.language.stemming import at, mended, stem, stems
from anvyl_mcp.orchestrator.language.vocabulary import EMPTY, FILLERS, HOST, MARK, STATES, meaning
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


def phrase_tool(
    rest: str, tools: Sequence[ToolListing], names: Sequence[str], quoted: Sequence[str]
) -> ToolListing | None:
    """The tool whose phrase accounts for every word but names, options and fillers."""
    found: list[tuple[int, ToolListing]] = []
    for listing in tools:
        asked = plain(" ".join(rest.split()), asks=True)
        if listing.required and not names and not re.search(MARK, asked):
            continue
        left, _ = take_options(asked, listing.arguments, quoted, listing.names)
        said = {
            meaning(word)
            for word in re.findall(r"[a-z][\w-]*", left.lower())
            if not any(word in re.split(r"[-_. ]+", name.lower()) or word == name.lower() for name in names)
        }
        cues = {word for cue in cues_of(listing) for word in cue}
        for phrase in listing.say:
            literal = phrases.literals(phrase) - {"and", "or", "this", "there", "what", "which"}
            words = said - ((EMPTY | FILLERS) - literal)
            more = {word for word in words - literal if stem(word) not in cues and word not in STATES}
            if (
                words
                and more <= {"show", "container"}
                and literal - {"show"} <= words
                and bool(names) == bool(phrases.holes(phrase))
            ):
                found.append((len(literal & words), listing))
    return max(found, key=lambda one: one[0])[1] if found else None


def ranking(rest: str, tools: Sequence[ToolListing], names: Sequence[str], *, of_hosts: bool) -> list[Fit]:
    """Tools by score for a question about the named containers, the best first."""
    # A name is no word of a tool: `logs of worker` is not about the workers of a swarm.
    unnamed = rest
    for pattern in (known for one in names if (known := name_pattern(one))):
        unnamed = pattern.sub(" ", unnamed)
    found = fits(unnamed, tools, of_hosts=of_hosts, named=bool(names))
    said = set(stems(rest))

    def suited(fit: Fit) -> Fit:
        more = 0.6 if names and _shows(fit.listing, said) else 0.0
        return replace(fit, weight=fit.weight * _suits(fit.listing, names) + more)

    return sorted(map(suited, found), key=lambda fit: -fit.weight)


def _suits(tool: ToolListing, names: Sequence[str]) -> float:
    """Weight of a tool for the named objects; a host's tool says little about a container."""
    takes = "container" in tool.names.values() or "name" in tool.arguments
    if tool.required and tool.names and "container" not in tool.names.values():
        return 0.0
    if names:
        return (1.3 if tool.required else 1.0) if takes else 0.45
    return 0.0 if tool.required else 1.0


def _shows(tool: ToolListing, said: Set[str]) -> bool:
    """Whether a tool shows a part of an object in detail that is asked for: `which networks does web use`."""
    parts = text.resolve_schema(tool.output_schema).get("properties", {}) if tool.required else {}
    return any(stem(name) in said for name, schema in parts.items() if schema.get("type") in ("array", "object"))


def names_all(listing: ToolListing) -> bool:
    """Whether all that a tool requires is the name of an object."""
    return not listing.required or list(listing.required) == list(listing.names)


def choices(listing: ToolListing, said: Set[str]) -> dict[str, Any]:
    """Values of a tool's arguments that the words choose: what processes are sorted by."""
    return {
        name: choice
        for name, schema in listing.arguments.items()
        for choice in reversed(schema.get("enum", ()))
        if {meaning(choice), stem(choice)} & said
    }
