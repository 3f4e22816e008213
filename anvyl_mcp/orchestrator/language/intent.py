"""Clauses of a text, and what they want: to read or to change, and with which verbs.

No model is asked here, so nothing a model read can move it. When the words are not clear, it says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from anvyl_mcp.orchestrator.language.lexicon import any_of, may_hold, translated, words_of_language
from anvyl_mcp.orchestrator.language.normalize import mask
from anvyl_mcp.orchestrator.language.vocabulary import (
    ARTICLES,
    LEAD_IN,
    MARK,
    RESERVED,
    STANDS_FOR,
    meaning,
)
from anvyl_mcp.peers.connection.listing import ToolListing

Intent = Literal["read", "change", "unclear"]

ASKS = re.compile(
    r"(?:(?:would|should|could|can|may|shall|will)\s+(?:i|it|there|that|this|they|anyone|anything)"
    r"|do(?=\s[^.!?]*\?)|what(?:'?s)?|wh?ich|who|whose|when|where(?:'?s)?|why|how(?:'?s)?|is|are|was|were|does|will(?!\s+(?:you|u|ya)\b)"
    r"|do\s+(?:i|we|you|they|any|the|all)|did|has|have|had|any|anything"
    r"|anyone|show|list|display|give\s+me|tell|know|check|see|find|count|compare|rank|describe|inspect|examine|look|view"
    r"|sort(?! (?:it|this|that|things) out)"
    r"|gimme|tail|last\s+\d+|(?:on|in|at|for|since)\s+(?:which|what|when|how)|just\s+the|env|(?:disk|uptime|cpu|memory)(?!\s+(?:(?:on|of)\s+\S+\s+)?(?:is|was)\b)"
    r"|print|report|summari[sz]e|explain|ls|ps|logs?|stats|status|info|name"
    r"|get(?!\s+(?:rid|an?\s+\S+\s+(?:called|named)\b|(?:\S+\s+){1,4}(?:up|back|down|online|offline|going|running|started|image)))"
    r"|give(?!\s+(?:it|them|(?:\S+\s+){1,6}?(?:kick|bounce|restart|reboot|start))))\b"
)
"""Beginnings of clauses that only ask."""
QUESTION = re.compile(
    r"(?i)\W*(?:is|are|was|were|do\s+(?:i|we|you|they|any|the|all)|does|did|has|have|had|can|could|should|may|which"
    r"|what|who|where|when|how|why)\b"
)
"""Beginnings of clauses that ask for an answer rather than for a list."""
CLAUSE = re.compile(r"[.;!?\n]+(?=\s|$)|,|\s*\)|\s+(?:and|then|but|or|so)\s+|\s[-–—]\s|:\s|\s\(")
DENIED = re.compile(
    r"\b(?:\w+n't|(?:do|did|does|is|was|are|would|could|should|have|has|ca|wo|must)nt|do\s+not|did\s+not|never|without"
    r"|not|no\s+need\s+to|instead\s+of|rather\s+than|avoid|cannot)\s+(?:\S+\s+)?$"
)
NOT_AN_ORDER = re.compile(
    r"\b(?:i|you|we|it|they|that|which|who|did|do|does|to|the|a|an|of|this|last|next|containers?|hosts?|after|before)\s+$"
)
ORDER = re.compile(r"\b(?:want|need|like|have|time|please|you)\s+(?:\S+\s+){0,4}to\s+$")
BE_DONE = re.compile(
    r"\b(?:(?:should|must|can|could|(?:needs?|has|have)\s+to)\s+be"
    r"|(?:want|like|need|(?<!i )(?<!we )(?:have|get))\s+(?:\S+\s+){0,4})\s*$"
)
AT_THE_END = r"(?=\W*(?:$|(?:on|at|from|again|please|for|tonight|now|today|too|as|back)\b)|\s*[,;.!])"


@dataclass(frozen=True)
class Wish:
    """Intent of a text. `verbs`: verbs of the requested changes; `asks`: it contains a question."""

    intent: Intent
    verbs: frozenset[str] = frozenset()
    asks: bool = False


@dataclass(frozen=True)
class Clause:
    """One clause: its position, the changes it requests, and whether it is a question. `joint`: what stands before."""

    start: int
    verbs: frozenset[str] = frozenset()
    asks: bool = False
    joint: str = ""
    end: int = 0


def verbs_of(listing: ToolListing) -> frozenset[str]:
    """Verbs for a tool, normalized."""
    firsts = [phrase.split()[0] for phrase in listing.say] + [listing.name.partition("_")[0]]
    return frozenset(meaning(word) for word in firsts)


def read_wish(said: str, tools: Iterable[ToolListing]) -> Wish:
    """Intent of a text, for the available tools."""
    found = clauses(translated(mask(said)[0])[0], tools)
    wanted, asks = frozenset[str]().union(*(clause.verbs for clause in found)), any(clause.asks for clause in found)
    if wanted:
        return Wish("change", wanted, asks)
    return Wish("read" if asks else "unclear", asks=asks)


def clauses(masked: str, tools: Iterable[ToolListing]) -> list[Clause]:
    """Clauses of a text with masked quotes."""
    known = frozenset[str]().union(*(verbs_of(tool) for tool in tools if not tool.reads))
    found, start, joint = list[Clause](), 0, ""
    for end, following in [*(match.span() for match in CLAUSE.finditer(masked)), (len(masked), len(masked))]:
        words = f"{re.sub(MARK, '…', masked[start:end]).lower().strip()} "
        words = words.removeprefix(lead[0] if (lead := LEAD_IN.match(words)) else "")
        # `do web1 and web2 run the same image?` is one question; `is web up? restart it` is not.
        goes_on = bool(found) and found[-1].asks and not re.search(r"[.;!?\n]", masked[found[-1].start : start])
        asking = (
            bool(ASKS.match(f"{words}{masked[following:].lower()}" if words.startswith("do ") else words)) or goes_on
        )
        verbs = frozenset(verb for verb in known if _is_ordered(verb, words, asking=asking))
        found.append(Clause(start, verbs, asking, joint, end))
        start, joint = following, masked[end:following]
    return found


@lru_cache(maxsize=256)
def _ways_of(verb: str) -> list[str]:
    """Forms of a verb and what means the same, the longest first."""
    same = [word for word, stands in STANDS_FOR.items() if stands == verb]
    return sorted({verb, *words_of_language("en")["verbs"].get(verb, ()), *same}, key=len, reverse=True)


def may_contain(said: str, verb: str) -> bool:
    """Whether a form of a verb may be in a text in lower case."""
    return any(may_hold(said, form) for form in (*_ways_of(verb), *words_of_language("en")["done"].get(verb, ())))


@lru_cache(maxsize=256)
def forms_of(verb: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns for a verb in imperative and in passive form; gaps are groups."""
    english = words_of_language("en")
    ways = _ways_of(verb)
    simple = [word for word in ways if re.fullmatch(r"[a-z]+", word)]
    ending = [any_of([way]) + (AT_THE_END if way.endswith(" on") and "…" in way else "") for way in ways]
    imperative = f"(?:{'|'.join(ending)})(?! (?:sure|polic))"
    done = [rf"{re.escape(word)}(?:{re.escape(word[-1])}?ed|d)" for word in simple]
    regular = rf"(?<![-/.])\b(?:{'|'.join(done)})(?![\w-])"
    passive = f"(?:{regular}|{any_of(english['done'].get(verb, ()))}){AT_THE_END}"
    return re.compile(imperative), re.compile(passive)


def words_after(said: str, verbs: Iterable[str]) -> list[str]:
    """Words directly after the verbs: `mysql` in `stop the mysql container`."""
    rest = [said.lower()[match.end() :] for verb in verbs for match in forms_of(verb)[0].finditer(said.lower())]
    words = [[word for word in re.findall(r"[\w.:/@-]*\w", part) if word not in ARTICLES] for part in rest]
    return [first for some in words for first in some[:1] if first not in RESERVED]


def _is_ordered(verb: str, clause: str, *, asking: bool) -> bool:
    """Whether a clause requests this change: at its beginning, or anywhere if it is not a question."""
    if not may_contain(clause, verb):
        return False
    form, done = forms_of(verb)
    for match in form.finditer(clause):
        before = clause[: match.start()]
        if not before.strip():
            return True
        if not asking and not DENIED.search(before) and (ORDER.search(before) or not NOT_AN_ORDER.search(before)):
            return True
    return not asking and any(BE_DONE.search(clause[: match.start()]) for match in done.finditer(clause))
