"""Remove arguments that a model invented and the user never mentioned.

Small models invent filters and options in a plan; without them the tool uses its defaults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.places import named
from anvyl_mcp.orchestrator.language.vocabulary import EMPTY, NUMBERS, meanings
from anvyl_mcp.peers.connection.listing import ToolListing

TIME = re.compile(
    r"\b(?:since|ago|last|past|recent|recently|latest|lately|today|yesterday|(?:second|minute|hour|day|week)s?)\b"
    r"|\d\s*[smhd]\b",
    re.I,
)
ALSO_STOPPED = re.compile(
    r"\b(?:stopped|exited|dead|down|crash(?:ed|ing)?|created|failed|gone|missing|ever|exist|all|every|any|how many"
    r"|count|(?:not|isn't|aren't|wasn't) (?:up|on|running|started|alive|ok|healthy)|off|offline|still)\b",
    re.I,
)
IMAGE = re.compile(
    r"(?<![\w/.-])[a-z0-9][\w.-]*(?:/[\w.-]+)*:\w[\w.-]*\w|(?<![\w/.-])[a-z0-9][\w.-]*(?:/[\w.-]+)+(?::[\w.-]*\w)?"
)
"""Image with a tag or path."""
NEAR = 0.8
"""Minimum similarity of a word and its typo."""


def images_in(said: str) -> list[str]:
    """Images in a text that have a tag or path."""
    return list(dict.fromkeys(IMAGE.findall(said)))


def near(one: str, other: str) -> bool:
    """Whether one word may be a typo of the other."""
    one, other = one.lower(), other.lower()
    if len(one) < 3 or re.sub(r"\D", "", one) != re.sub(r"\D", "", other):
        return False  # `web1` and `web2` are no typos of each other, nor of `web`
    return sorted(one) == sorted(other) or SequenceMatcher(None, one, other).ratio() >= NEAR


def words_of(said: str) -> list[str]:
    """Significant words of a text, in lower case."""
    return [word for word in re.findall(r"[a-z0-9][\w.:/@-]*\w|[a-z0-9]", said.lower()) if word not in EMPTY]


def ground_arguments(listing: ToolListing, arguments: Mapping[str, Any], said: str) -> dict[str, Any]:
    """Remove options that the text does not mention; required arguments and object names are kept."""
    kept: dict[str, Any] = {}
    for name, value in arguments.items():
        schema = listing.arguments.get(name)
        if schema is None or name in listing.required or name in listing.names:
            kept[name] = value
        elif isinstance(value, list):
            if entries := [entry for entry in value if _said(name, schema, entry, said, reads=listing.reads)]:
                kept[name] = entries
        elif _said(name, schema, value, said, reads=listing.reads):
            kept[name] = value
    if listing.reads and "all" in listing.arguments and ALSO_STOPPED.search(said):
        kept["all"] = True
    return kept


def _said(name: str, schema: Mapping[str, Any], value: Any, said: str, *, reads: bool) -> bool:
    """Whether a text mentions a value or its option."""
    if value == schema.get("default") or name == "all":
        return True
    if isinstance(value, bool):
        return _speaks_of(f"{name} {schema.get('description', '')}", said)
    if not reads and _speaks_of(name, said):
        return True
    if isinstance(value, int | float):
        return _has_number(str(value), said)
    if name == "since" or (isinstance(value, str) and text.parse_duration(value) is not None):
        return bool(TIME.search(said))
    parts = re.findall(r"\w[\w.-]*", str(value))
    return any(named(said, part) or _has_number(part, said) or _speaks_of(part, said) for part in parts)


def _has_number(number: str, said: str) -> bool:
    written = [digits for word, digits in NUMBERS.items() if re.search(rf"\b{word}\b", said, re.IGNORECASE)]
    return number in re.findall(r"\d+", said) + written


def _speaks_of(words: str, said: str) -> bool:
    return bool((set(meanings(words)) - EMPTY - {"show", "value", "also", "name"}) & set(meanings(said)))
