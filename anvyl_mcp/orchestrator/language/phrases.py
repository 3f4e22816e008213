"""Match clauses with the phrases of tools.

A phrase such as `stop {name}` becomes one regular expression that the whole clause has to match, with the freedom
people take: other words for the same thing, plurals, articles, quotes. Nothing in here knows a tool.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set
from functools import lru_cache

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.vocabulary import (
    AND,
    ARTICLES,
    CONNECTORS,
    FREE_TEXT,
    GLUE,
    NAME,
    PADDING,
    literal,
    meanings,
)
from anvyl_mcp.peers.connection.listing import ToolListing

SAMPLES = {"name": "web", "image": "nginx", "command": "uptime"}
TURNED = re.compile(r"(\w+) (\w+) (\{(?!command)\w+\})")
"""`remove image {image}`, also written `remove {image} image`."""
USUAL = ("list", "inspect", "restart")
"""First words of the phrases used as examples for an unrelated question."""


def examples(tools: Iterable[ToolListing], question: str) -> str:
    """Hint with example phrases: those that share words with the question, else general ones."""
    said = set(meanings(question))
    spoken_for = [tool.say[0] for tool in tools if tool.say]
    near = [phrase for phrase in spoken_for if literals(phrase) and literals(phrase) <= said]
    shown = near or [phrase for phrase in spoken_for if phrase.split()[0] in USUAL] or spoken_for
    filled = [re.sub(r"\{(\w+)\}", lambda hole: SAMPLES.get(hole[1], hole[1]), phrase) for phrase in shown[:3]]
    words = "say it like " + text.join_names([f"`{phrase}`" for phrase in filled])
    return words if near else f"{words}; a language model understands more: anvyl doctor"


def holes(phrase: str) -> list[str]:
    """Placeholders of a phrase."""
    return re.findall(r"\{(\w+)\}", phrase)


def spoken(listing: ToolListing) -> list[str]:
    """Phrases of a tool and variants with the noun after the name: `logs {name}`, `{name} logs`."""
    asked = [phrase for phrase in listing.say if listing.reads and len(holes(phrase)) == 1]
    turned = (
        [] if listing.reads else [TURNED.sub(r"\1 \3 \2", phrase) for phrase in listing.say if TURNED.fullmatch(phrase)]
    )
    return [
        *listing.say,
        *turned,
        *(re.sub(r"(\S+) (?:(?:of|about) )?(\{\w+\})$", r"\2 \1", phrase) for phrase in asked),
    ]


@lru_cache(maxsize=512)
def literals(phrase: str) -> frozenset[str]:
    """Normalized words that a sentence needs to match this phrase."""
    return frozenset(meanings(re.sub(r"\{\w+\}", "", phrase))) - ARTICLES - GLUE - CONNECTORS


def fill(phrase: str, clause: str, listing: ToolListing, given: Set[str]) -> dict[str, str] | None:
    """Values of the placeholders if the phrase matches the whole clause; options have set those in `given`."""
    free = not FREE_TEXT.isdisjoint(holes(phrase))
    if not free:
        skipped = ARTICLES | GLUE | PADDING - set(phrase.split()) if listing.reads else ARTICLES
        clause = " ".join(word for word in clause.split() if word.lower() not in skipped)
    kinds = tuple(listing.names.items())
    choices = tuple((name, tuple(listing.arguments[name].get("enum", ()))) for name in holes(phrase))
    match = _pattern(phrase, kinds, choices, frozenset(given), reads=listing.reads).fullmatch(clause)
    return match.groupdict() if match else None


@lru_cache(maxsize=1024)
def _pattern(
    phrase: str,
    kinds: tuple[tuple[str, str], ...],
    choices: tuple[tuple[str, tuple[str, ...]], ...],
    given: frozenset[str],
    *,
    reads: bool,
) -> re.Pattern[str]:
    parts: list[str] = []
    words = [word for word in phrase.split() if word not in (ARTICLES | GLUE if reads else ARTICLES)]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        hole = word.strip("{}")
        if word == hole and not (word in CONNECTORS and following.strip("{}") in given):
            parts.append(literal(word))
        elif word != hole and hole not in given:
            parts.append(_hole(hole, dict(kinds).get(hole, ""), dict(choices)[hole]))
    between = r"\s+(?:(?:the|this)\s+)?" if any(f"{{{name}}}" in words for name in FREE_TEXT) else r"\s+"
    return re.compile((rf"(?:{literal('show')}\s+)?" if reads else "") + between.join(parts), re.IGNORECASE)


def _hole(argument: str, kind: str, choices: Sequence[str]) -> str:
    if argument in FREE_TEXT:
        return rf"(?P<{argument}>.+)"
    if choices:
        said = "|".join(re.escape(one).replace("_", r"[\s_-]+").removesuffix("s") + "s?" for one in choices)
        return rf"(?:(?:unused|stopped|dangling|old)\s+)?(?P<{argument}>{said})"
    called = r"(?:named|called)\s+"
    if not kind:
        return rf"(?:{called})?(?P<{argument}>{NAME})"
    noun = rf"(?:{literal(kind)}|service|app)" if kind == "container" else literal(kind)
    state = r"(?:(?:stopped|exited|running)\s+)?" if kind == "container" else ""
    return rf"{state}(?:{noun}\s+|{called})*(?P<{argument}>{NAME}(?:{AND}(?:{noun}\s+)?{NAME})*)(?:\s+{noun})?"


def choice(words: str, choices: Sequence[str]) -> str:
    """Choice of an argument that the words name: `build cache` is `build_cache`."""
    said = re.sub(r"[\s_-]+", "_", words.lower())
    return next(one for one in choices if said.removesuffix("s") == one.removesuffix("s"))


def split_names(value: str, kind: str) -> list[str]:
    """`web, db and container cache` → three names."""
    return re.split(rf"{AND}(?:{literal(kind)}\s+)?", value, flags=re.IGNORECASE)
