"""Normalize a sentence: mask quotes, collapse punctuation, write contractions out, strip politeness."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.lexicon import rewritten
from anvyl_mcp.orchestrator.language.vocabulary import MARK, without_lead
from anvyl_mcp.orchestrator.reader_thread import MOST_CHARACTERS, MOST_PARTS, MOST_WORDS

QUOTED = re.compile(r"""(?<![^\s=,(])(['"`])(.+?)\1(?![\w'"`])""")
THANKS = re.compile(
    r"(?i)(?:[\s,]+(?:please|pls|thanks|thank you|now|right now|for me|immediately|asap|again|once more)|[\s.?!,])+$"
)
NOT_RUNNING = re.compile(
    r"(?i)(?:n't|\s+not)\s+(?:(?:is|are|currently|now|really|actually)\s+)*(?P<after>runn?(?:ing|s)?|up|healthy)\b"
    r"|\s+(?P<before>running|up|healthy)(?P<between>(?:\s+(?:now|currently|right|at|the|moment|on\s+\S+))*)\s+not\b"
)
SEPARATOR = re.compile(
    r"(?i)\s*(?:[,;]|[.!?](?=\s))\s*(?:(?:and|then|also|afterwards|finally|after\s+that|next)[\s,]+)*"
    r"|\s+(?:(?:and|then|also|afterwards|finally|after\s+that|next|&&?)[\s,]+)+"
)
RUN = re.compile(r"[,;!?](?:\s*[,;!?])+")
BLANKS = re.compile(r"\s+")
POLITELY = re.compile(r"(?i)\b(?:can|could|would|will)\s+(?:you|u)\b|\bplease\b")


def only_wonders(sentence: str) -> bool:
    """Whether a sentence is a question without a request: `restart web?`."""
    return "?" in sentence and not POLITELY.search(sentence)


def mask(sentence: str) -> tuple[str, tuple[str, ...]]:
    """Replace each quoted text by one character; returns the sentence and the quoted texts."""
    found: list[str] = []

    def keep(match: re.Match[str]) -> str:
        found.append(match[0])
        return chr(0xE000 + len(found) - 1)

    unmarked = re.sub(MARK, "", text.clean(sentence)).replace("’", "'")
    return _tidy(QUOTED.sub(keep, unmarked)), tuple(found)


def _tidy(masked: str) -> str:
    """Collapse runs of blanks and punctuation, which would slow down every parser."""
    tidied = RUN.sub(lambda run: "? " if "?" in run[0] else f"{run[0][0]} ", masked)
    return BLANKS.sub(lambda run: "\n" if "\n" in run[0] else " ", tidied).strip()


def is_short(masked: str) -> bool:
    """Whether a masked sentence is short enough to parse."""
    return (
        len(masked) <= MOST_CHARACTERS
        and len(masked.split()) <= MOST_WORDS
        and len(SEPARATOR.findall(masked)) <= MOST_PARTS
    )


def unmask(value: str, quoted: Sequence[str]) -> str:
    """Restore the quoted texts; quotes around the whole value are removed."""
    whole = re.fullmatch(MARK, value.strip())
    words = re.sub(MARK, lambda match: quoted[ord(match[0]) - 0xE000], value.strip())
    return words[1:-1] if whole else words


@lru_cache(maxsize=256)
def plain(clause: str, *, asks: bool = False) -> str:
    """Strip politeness and punctuation; `asks`: rewrite the idioms of questions."""
    clause = re.sub(r"(?i)\b(what|where|who|which)'s\b", r"\1 is", " ".join(clause.split()))
    clause = re.sub(r"(?<=\w)'s\b", "", clause)
    clause = THANKS.sub("", without_lead(clause))
    clause = NOT_RUNNING.sub(_opposite, clause)
    return rewritten(clause, "idioms") if asks else clause


def _opposite(match: re.Match[str]) -> str:
    state = match["after"] or match["before"]
    return f" {'unhealthy' if state.lower() == 'healthy' else 'stopped'}{match['between'] or ''}"


def plainly(masked: str) -> str:
    """The text with contractions in full and idioms of orders in plain words."""
    return rewritten(rewritten(masked, "contractions"), "orders")


def named(clause: str, names: Sequence[str]) -> str:
    """Replace `it` and `them` by the given names, if any."""
    if not names:
        return clause
    joined = text.join_names(names)
    clause = re.sub(r"(?i)\b(?:its|their)\b", f"{joined}'s", clause)
    return re.sub(r"(?i)\b(?:it|them|that\s+(?:one|container))\b", joined, clause)
