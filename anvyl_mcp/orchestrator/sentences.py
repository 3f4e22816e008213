"""A sentence as it was typed: quotes kept apart, politeness taken away, clauses told from each other."""

from __future__ import annotations

import re
from collections.abc import Sequence

from anvyl_mcp import text
from anvyl_mcp.orchestrator.vocabulary import MARK

QUOTED = re.compile(r"""(?<![^\s=,(])(['"`])(.+?)\1(?![\w'"`])""")
POLITE = re.compile(
    r"(?i)\s*(?:(?:please|kindly|hey|hi|hello|ok|okay|anvyl|just|now|then|also|go ahead and|let's"
    r"|(?:can|could|would|will) you|(?:i would|i'd) like (?:you )?to|i (?:want|need) (?:you )?to"
    r"|(?:check|see|tell me|let me know) (?:if|whether))[\s,]+)*"
)
THANKS = re.compile(r"(?i)(?:[\s,]+(?:please|thanks|thank you|now|right now|for me|immediately|asap)|[\s.?!,])+$")
DENIED = re.compile(r"(?i)(?:n't|\s+not)\s+(running|healthy)\b")
SEPARATOR = re.compile(r"(?i)\s*(?:[,;]|[.!?](?=\s))\s*(?:(?:and|then|also)\s+)*|\s+(?:(?:and|then|also|&&?)\s+)+")


def mask(sentence: str) -> tuple[str, tuple[str, ...]]:
    """The sentence with each quoted text as one character, and the quoted texts with their quotes."""
    found: list[str] = []

    def keep(match: re.Match[str]) -> str:
        found.append(match[0])
        return chr(0xE000 + len(found) - 1)

    unmarked = re.sub(MARK, "", text.clean(sentence)).replace("’", "'")
    return QUOTED.sub(keep, unmarked).strip(), tuple(found)


def unmask(value: str, quoted: Sequence[str]) -> str:
    """What was typed; quotes around the whole of it are gone."""
    whole = re.fullmatch(MARK, value.strip())
    words = re.sub(MARK, lambda match: quoted[ord(match[0]) - 0xE000], value.strip())
    return words[1:-1] if whole else words


def polite(clause: str) -> str:
    """The politeness a clause begins with."""
    return match[0] if (match := POLITE.match(clause)) else ""


def plain(clause: str) -> str:
    """A clause without politeness and punctuation."""
    clause = re.sub(r"(?<=\w)'s\b", "", " ".join(clause.split()))
    clause = THANKS.sub("", clause.removeprefix(polite(clause)))
    return DENIED.sub(lambda match: " stopped" if match[1].lower() == "running" else " unhealthy", clause)


def free(clause: str) -> str:
    """A clause that ends in free text: only the politeness in front goes, and the mark of a polite question."""
    spared = polite(clause)
    return clause.removeprefix(spared).rstrip("?" if "you" in spared.lower() else "")
