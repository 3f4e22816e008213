"""Compare the tools that a host offers with those of this version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.peers.connection.listing import ToolListing

DESCRIPTIVE = ("description", "title", "examples")
"""Parts of a schema that do not affect which values are valid."""
MOST_NAMES = 100
LONGEST_NAME = 64


@dataclass(frozen=True)
class Offer:
    """The tools that a host offers: those in our catalogue, how some of these differ, and those unknown here."""

    known: tuple[str, ...]
    differing: Mapping[str, str]
    foreign: tuple[str, ...]


def compare_tools(catalogue: Mapping[str, ToolListing], listed: Iterable[ToolListing]) -> Offer:
    """Compare a host's listing with our catalogue."""
    theirs = {tool.name: tool for tool in listed}
    differing = {name: difference(ours, theirs[name]) for name, ours in catalogue.items() if name in theirs}
    foreign = sorted(text.clean(name)[:LONGEST_NAME] for name in theirs if name not in catalogue)
    return Offer(tuple(differing), {name: how for name, how in differing.items() if how}, tuple(foreign[:MOST_NAMES]))


def difference(ours: ToolListing, theirs: ToolListing) -> str:
    """Describe how a tool of another version differs from ours; empty if calls and answers are compatible."""
    parts = []
    if missing := [name for name in ours.arguments if name not in theirs.arguments]:
        parts.append(f"does not know {_quoted(missing)}")
    if more := [name for name in theirs.arguments if name not in ours.arguments]:
        parts.append(f"also takes {_quoted(more)}")
    if not parts and _without_descriptions(ours.input_schema) != _without_descriptions(theirs.input_schema):
        parts.append("takes its arguments in another form")
    if _without_descriptions(ours.output_schema) != _without_descriptions(theirs.output_schema):
        parts.append("answers in another form")
    return " and ".join(parts)


def _quoted(names: list[str]) -> str:
    return ", ".join(f"`{text.clean(name)[:LONGEST_NAME]}`" for name in names[:5])


def _without_descriptions(schema: Any) -> Any:
    """Return a schema without descriptions, titles, examples and `x-` keys."""
    if isinstance(schema, dict):
        return {
            name: {key: _without_descriptions(value) for key, value in entry.items()}
            if name in ("properties", "$defs") and isinstance(entry, dict)
            else _without_descriptions(entry)
            for name, entry in schema.items()
            if name not in DESCRIPTIVE and not name.startswith("x-")
        }
    return [_without_descriptions(entry) for entry in schema] if isinstance(schema, list) else schema
