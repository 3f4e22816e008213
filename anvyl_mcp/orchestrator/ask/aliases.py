"""A person's own words for things and for whole questions, replaced before anything reads a question."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from anvyl_mcp.core.settings import Settings

ARTICLE = r"(?:(?:the|my|our|a|an)\s+)?"
QUOTED = r"\"[^\"]*\"|`[^`]*`|(?<!\w)'[^']*'(?!\w)"
"""Words in quotes are literal."""
ON_HOST = re.compile(r"\s+on\s+\S+$", re.IGNORECASE)
NAMES_HOST = re.compile(r"\s+(?:on|at|from)\s", re.IGNORECASE)


@dataclass(frozen=True)
class Expanded:
    """A question with its aliases replaced, and a note for each of them."""

    text: str
    notes: tuple[str, ...] = ()


def expand(text: str, settings: Settings) -> Expanded:
    """Replace the phrase that the text is, or the aliases in it. What they stand for is not expanded again."""
    for phrase, question in settings.phrases.items():
        if _plain(text) == _plain(phrase):
            return Expanded(question, (_note(phrase, question),))
    return _with_aliases(text, settings.aliases) if settings.aliases else Expanded(text)


def _with_aliases(text: str, aliases: Mapping[str, str]) -> Expanded:
    longest_first = sorted(aliases, key=lambda alias: len(_plain(alias)), reverse=True)
    groups = "|".join(f"({_pattern(alias)})" for alias in longest_first)
    notes: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match.lastindex is None:
            return match[0]
        alias = longest_first[match.lastindex - 1]
        target = aliases[alias]
        if NAMES_HOST.match(text, match.end()):
            target = ON_HOST.sub("", target)
        notes.append(_note(alias, target))
        return target

    expanded = re.sub(f"{QUOTED}|{groups}", replace, text, flags=re.IGNORECASE)
    return Expanded(expanded, tuple(dict.fromkeys(notes)))


def _pattern(alias: str) -> str:
    """The alias as whole words, with or without an article."""
    words = r"\s+".join(map(re.escape, _plain(alias).split()))
    return rf"(?<![\w-]){ARTICLE}{words}(?![\w-])"


def _plain(words: str) -> str:
    """Lower case, without an article in front, politeness and final punctuation."""
    plain = " ".join(words.lower().split()).strip(" .!?")
    plain = re.sub(r"^please,?\s+|,?\s+please$", "", plain)
    return re.sub(rf"^{ARTICLE}", "", plain)


def _note(alias: str, target: str) -> str:
    return f"read `{alias}` as `{target}`"
