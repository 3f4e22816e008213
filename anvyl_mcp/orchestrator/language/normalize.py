"""Normalize a sentence: mask quotes, strip politeness, split clauses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.idioms import said_plainly
from anvyl_mcp.orchestrator.language.vocabulary import MARK
from anvyl_mcp.orchestrator.reader_thread import MOST_CHARACTERS, MOST_PARTS, MOST_WORDS

QUOTED = re.compile(r"""(?<![^\s=,(])(['"`])(.+?)\1(?![\w'"`])""")
COURTESY = (
    r"please|kindly|hey|hi|hello|ok|okay|anvyl|just|now|then|also|first|go ahead and|let's"
    r"|(?:can|could|would|will) you|(?:i would|i'd) like (?:you )?to|i (?:want|need) (?:you )?to"
    r"|(?:check|see|tell me|let me know) (?:if|whether)"
)
POLITE = re.compile(
    rf"(?i)\s*(?:(?:{COURTESY}"
    r"|docker(?=\s+(?:ps|images|logs?|inspect|stats|start|stop|restart|rm|pull|run|exec|events|info|version|top|rmi|system"
    r"|image|volume|network)\b))[\s,]+)*"
)
COURTEOUS = re.compile(rf"(?i)\s*(?:(?:{COURTESY})[\s,]+)*")
"""Politeness only, for possible Docker command lines."""
THANKS = re.compile(
    r"(?i)(?:[\s,]+(?:please|thanks|thank you|now|right now|for me|immediately|asap|again|once more)|[\s.?!,])+$"
)
DENIED = re.compile(r"(?i)(?:n't|\s+not)\s+(running|up|healthy)\b")
FOLLOWS = r"(?:and|then|also|afterwards|finally|after\s+that|next)"
SEPARATOR = re.compile(rf"(?i)\s*(?:[,;]|[.!?](?=\s))\s*(?:{FOLLOWS}[\s,]+)*|\s+(?:(?:{FOLLOWS}|&&?)[\s,]+)+")


RUN = re.compile(r"[,;!?](?:\s*[,;!?])+")
BLANKS = re.compile(r"\s+")
POLITELY = re.compile(r"(?i)\b(?:can|could|would|will)\s+you\b|\bplease\b")


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


def tidied(sentence: str) -> str:
    """Collapse runs of blanks and punctuation outside of quotes."""
    masked, quoted = mask(sentence)
    return re.sub(MARK, lambda match: quoted[ord(match[0]) - 0xE000], masked)


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


def polite(clause: str) -> str:
    """Polite words at the beginning of a clause."""
    return match[0] if (match := POLITE.match(clause)) else ""


@lru_cache(maxsize=256)
def plain(clause: str, *, asks: bool = False) -> str:
    """Strip politeness and punctuation; `asks`: more freely, for questions."""
    clause = re.sub(r"(?i)\b(what|where|who|which)'s\b", r"\1 is", " ".join(clause.split()))
    clause = re.sub(r"(?<=\w)'s\b", "", clause)
    clause = THANKS.sub("", clause.removeprefix(polite(clause)))
    clause = DENIED.sub(lambda match: " stopped" if match[1].lower() in ("running", "up") else " unhealthy", clause)
    return said_plainly(clause, asks=asks)


def named(clause: str, names: Sequence[str]) -> str:
    """Replace `it` and `them` by the given names, if any."""
    if not names:
        return clause
    joined = text.join_names(names)
    clause = re.sub(r"(?i)\b(?:its|their)\b", f"{joined}'s", clause)
    return re.sub(r"(?i)\b(?:it|them|that\s+(?:one|container))\b", joined, clause)


def free(clause: str) -> str:
    """Clause that ends in free text: strip only leading politeness and the final question mark."""
    spared = polite(clause)
    return clause.removeprefix(spared).rstrip("?" if "you" in spared.lower() else "")
