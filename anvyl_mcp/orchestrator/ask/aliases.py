"""Expands the user's aliases for objects and for whole questions, before a question is parsed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from anvyl_mcp.core.settings import Settings

ARTICLE = r"(?:(?:the|my|our|a|an)\s+)?"
QUOTED = r"\"[^\"]*\"|`[^`]*`|(?<!\w)'[^']*'(?!\w)"
"""Quoted text, in which aliases are not expanded."""
ON_HOST = re.compile(r"\s+on\s+\S+$", re.IGNORECASE)
NAMES_HOST = re.compile(r"\s+(?:on|at|from)\s", re.IGNORECASE)


@dataclass(frozen=True)
class ExpandedText:
    """A question with its aliases expanded, and a note for each of them."""

    text: str
    notes: tuple[str, ...] = ()


def expand(text: str, settings: Settings) -> ExpandedText:
    """Expand a text that is an alias for a question, or the aliases in it. The result is not expanded again."""
    for phrase, question in settings.phrases.items():
        if _plain(text) == _plain(phrase):
            return ExpandedText(question, (_note(phrase, question),))
    return _with_aliases(text, settings.aliases) if settings.aliases else ExpandedText(text)


def _with_aliases(text: str, aliases: Mapping[str, str]) -> ExpandedText:
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
    return ExpandedText(expanded, tuple(dict.fromkeys(notes)))


def _pattern(alias: str) -> str:
    """Regular expression for the alias as whole words, with or without an article."""
    words = r"\s+".join(map(re.escape, _plain(alias).split()))
    return rf"(?<![\w-]){ARTICLE}{words}(?![\w-])"


def _plain(words: str) -> str:
    """The text in lower case, without leading article, `please` and final punctuation."""
    plain = " ".join(words.lower().split()).strip(" .!?")
    plain = re.sub(r"^please,?\s+|,?\s+please$", "", plain)
    return re.sub(rf"^{ARTICLE}", "", plain)


def _note(alias: str, target: str) -> str:
    return f"read `{alias}` as `{target}`"
