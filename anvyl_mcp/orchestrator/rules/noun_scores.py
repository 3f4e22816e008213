"""Score reading tools by the words they share with a question that is not a phrase."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.vocabulary import ARTICLES, EMPTY, MARK, STATES, is_name, meaning, meanings
from anvyl_mcp.peers.connection.listing import ToolListing

CLEARLY = 1.4
"""Minimum lead over the next tool."""


def take_subject(question: str, nouns: Set[str]) -> tuple[str, str]:
    """Split `is the web container running` into `running` and `web`; empty subject for other questions."""
    words = [word for word in question.split() if not {word.lower(), meaning(word)} & (ARTICLES | {"still"} | nouns)]
    match [word.lower() for word in words]:
        case ["is" | "are" | "was", _, state] if meaning(state) in STATES and is_name(words[1]):
            return words[2], words[1]
        case [_, "is" | "are" | "was", state] if meaning(state) in STATES and is_name(words[0]):
            return words[2], words[0]
    return question, ""


def noun_of(listing: ToolListing) -> str:
    """Noun for the rows of a tool, like `container`; empty if its result is not a list."""
    return meaning(text.rows_field(text.resolve_schema(listing.output_schema)))


def fits(listing: ToolListing, word: str) -> int:
    """Score of a word for a tool: as listed kind, phrase word, state or mention."""
    schema = text.resolve_schema(listing.output_schema)
    fields = set(meanings(" ".join(_fields(schema)).replace("_", " ")))
    if word == noun_of(listing):
        return 5 if any(set(meanings(phrase)) == {"show", word} for phrase in listing.say) else 2
    if word in meanings(" ".join([*listing.say, listing.name.replace("_", " ")])):
        return 3
    if word in STATES and fields & ({"health"} if "health" in word else {"state", "status"}):
        return 2
    return int(word in fields or word in meanings(listing.description))


def _fields(schema: Mapping[str, Any]) -> list[str]:
    nested = [schema.get("items", {}), *schema.get("properties", {}).values()]
    return [*schema.get("properties", {}), *(field for inner in nested if inner for field in _fields(inner))]


def fitting(
    tools: Sequence[ToolListing], question: str, *, named: bool = False, every_word: bool = False
) -> ToolListing | None:
    """Tool with the clearly best score for the words, or None.

    `named`: the question names an existing thing, so that one word besides is enough. `every_word`: none is let be.
    """
    words = set(meanings(" ".join(word for word in re.sub(MARK, "?", question).lower().split() if word not in EMPTY)))
    rated = {word: [fits(tool, word) for tool in tools] for word in words}
    known = sum(any(fit) for fit in rated.values())
    if known <= (0 if named else len(words) - known) or (every_word and known < len(words)):
        return None
    scores = [sum(fit[index] / (sum(fit) or 1) for fit in rated.values()) for index in range(len(tools))]
    clear = [tool for tool, score in zip(tools, scores, strict=True) if score * CLEARLY > max(scores)]
    return clear[0] if len(clear) == 1 else None
