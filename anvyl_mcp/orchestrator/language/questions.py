"""Classify questions about results: the most of something, where something is, what is wrong, and so on.

A question is read from its words alone, so that the answer can be worked out from the same question later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.lexicon import english, pattern, words_of_language
from anvyl_mcp.orchestrator.language.vocabulary import HOST, NAME, is_name, meaning, meanings


class Wants(Enum):
    """Kinds of questions answered by aggregating results."""

    BEYOND = "which have more or less than so much"
    EXTREME = "which has the most or least of something"
    TIGHT = "whether something runs out"
    ROOM = "where something of a size fits"
    AMOUNT = "how much of something"
    WHERE = "where something runs"
    TROUBLE = "what is not well"
    UNUSED = "what nothing uses"
    WHY = "why one is as it is"


@dataclass(frozen=True)
class Query:
    """One parsed question: its kind, the measure and the objects."""

    wants: Wants
    words: frozenset[str] = frozenset()
    noun: str = ""
    least: bool = False
    free: bool = False
    need: int = 0
    subject: str = ""
    said: frozenset[str] = field(default_factory=frozenset)


_EN = words_of_language("en")["questions"]
LEAST = english("questions", "least")
SUPERLATIVES: dict[str, tuple[bool, str]] = {
    word: (end == "least", measure)
    for end in ("most", "least")
    for word, measure in (pair.split("=") for pair in _EN[f"{end}_of"].split())
}
"""Superlatives that imply a measure: whether the least, and of what."""
ENDS = english("questions", "most") | LEAST | SUPERLATIVES.keys()
MEASURED = dict(pair.split("=") for pair in _EN["measured"].split())
"""Field words for words that are not field names."""
FREE = english("questions", "free")
FITS = english("questions", "fits")
NOUNS = english("questions", "nouns")
KINDS = english("questions", "measures")
"""Measures; `host` and `container` are counted."""
MOST_PERCENT = 10_000
"""Numbers up to this are percentages, above it bytes."""
SIZED = re.compile(r"(?i)\b(\d+(?:\.\d+)?)\s*([kmgt])(?:i?b|igs?|egs?|(?:ig|eg)abytes?)?\b")
PERCENT = re.compile(r"(?i)\b(\d+(?:\.\d+)?)\s*(?:%|percent\b)")
BEYOND = re.compile(
    r"(?i)\b(?:(?:more|bigger|larger|greater|higher|heavier)\s+than|over|above|at\s+least|exceed(?:s|ing)?"
    r"|(?P<below>(?:less|smaller|lower)\s+than|under|below|at\s+most))\s+"
    r"\d+(?:\.\d+)?\s*(?P<unit>[kmgt]i?b?\b|%|percent\b)"
)
TIGHT = re.compile(
    r"(?i)\b(?:run(?:s|ning)?\s+(?:out\s+of|low\s+on)|low\s+on|short\s+(?:of|on)|out\s+of|(?:getting|almost|nearly|too)\s+full"
    r"|full|tight|enough)\b"
)
OF_DOCKER = re.compile(r"\b(?:space|disk|storage)\b.*\bdocker\b|\bdocker\b.*\b(?:space|disk|storage)\b")
"""Disk usage of Docker has its own tool."""
LASTING = re.compile(
    r"(?i)\b(?:how\s+long\b.*\b(?:up|running|on)|up\s+(?:the\s+)?(?:longest|shortest)|(?:longest|shortest)\s+up"
    r"|(?:re)?boot(?:ed|s)?\b|\buptimes?\b|how\s+many\s+(?:days|hours)\b.*\b(?:up|running|on))"
)
LATELY = re.compile(
    r"\bboot\w*\s+(?:most\s+recently|last)\b|\b(?:most\s+recently|last)\s+(?:re)?boot|\breboot\w*\s+(?:most\s+recently|last)\b"
)
"""The most recently started object has the shortest uptime."""


def _whole_questions(key: str) -> tuple[re.Pattern[str], ...]:
    """Patterns of complete questions, without hosts; `{subject}` is what one is about."""
    parts = {"subject": f"(?P<subject>{NAME})", "port": r"(?P<subject>\d+)", "host": HOST}
    return tuple(
        re.compile(re.sub(r"\\\{(\w+)\\\}", lambda part: parts[part[1]], pattern(form)), re.IGNORECASE)
        for form in _EN[key]
    )


WHERE, WHY, TROUBLE = (_whole_questions(key) for key in ("where", "why", "trouble"))
PAUSE = re.compile(r"[,;:.-]+\s+")
UNUSED = re.compile(
    r"(?i)(?:(?:which|what|show|list|are\s+there)\s+)?(?:any\s+|the\s+)?(?:unused\s+(?P<noun>volumes?|networks?)"
    r"|(?P<other>volumes?|networks?)\s+(?:are\s+)?(?:unused|not\s+used|not\s+in\s+use|orphaned|empty))"
)


def read(question: str) -> Query | None:
    """Classify a question; None for other kinds. It may contain hosts."""
    asked = " ".join(question.split()).rstrip(" ?!.")
    if match := UNUSED.fullmatch(asked):
        return Query(Wants.UNUSED, noun=meaning(match["noun"] or match["other"]))
    return (
        _whole(asked, Wants.TROUBLE, TROUBLE)
        or _whole(PAUSE.sub(" ", asked), Wants.WHY, WHY)
        or _measured(asked)
        or _whole(asked, Wants.WHERE, WHERE)
    )


def _whole(asked: str, wants: Wants, patterns: Iterable[re.Pattern[str]]) -> Query | None:
    for form in patterns:
        if (match := form.fullmatch(asked)) and is_name(subject := match.groupdict().get("subject") or "it is none"):
            return Query(wants, subject=subject if "subject" in form.groupindex else "")
    return None


def _measured(asked: str) -> Query | None:
    lower = asked.lower()
    if OF_DOCKER.search(lower):
        return None
    typed = re.findall(r"[a-z][a-z0-9-]*", lower)
    said = frozenset(meanings(lower)) | frozenset(typed)
    words = frozenset(MEASURED.get(word, word) for word in said)
    words |= frozenset(SUPERLATIVES[word][1] for word in typed if word in SUPERLATIVES)
    words |= frozenset({"uptime"} if LASTING.search(lower) else ())
    query = Query(
        Wants.AMOUNT,
        words=words & (KINDS | NOUNS),
        noun=_noun(lower),
        least=LATELY.search(lower) is not None
        or any(word in LEAST or SUPERLATIVES.get(word, (False, ""))[0] for word in typed),
        free=bool(said & FREE),
        need=_need(lower),
        said=said,
    )
    for wants, holds in WANTED.items():
        if holds(query, lower):
            return _as(query, wants)
    return None


def _as(query: Query, wants: Wants) -> Query:
    words = query.words & KINDS
    if wants is Wants.EXTREME and not words:
        words = query.words - {query.noun} or (
            frozenset({"size"}) if query.said & {"biggest", "largest", "smallest"} or query.noun == "image" else words
        )
    elif not words and wants is Wants.BEYOND and query.noun == "image":
        words = frozenset({"size"})
    elif not words and wants is Wants.BEYOND:
        words = frozenset({"cpu"} if query.need <= MOST_PERCENT else {"memory"})
    elif not words and wants is Wants.ROOM:
        words = frozenset({"memory", "disk"})
    elif not words and wants is Wants.TIGHT:
        words = frozenset({"disk"})
    return Query(wants, words, query.noun, query.least, query.free or wants is Wants.ROOM, query.need, said=query.said)


def _is_extreme(query: Query, lower: str) -> bool:
    using = re.match(
        r"(?:what|who|which\s+\w+)\s+(?:is\s+|are\s+)?(?:us(?:e|es|ing)|eat(?:s|ing)|hogging|consum(?:es|ing))\b", lower
    )
    return bool(query.words & KINDS if using else query.words) and (bool(using) or bool(query.said & ENDS))


def _is_room(query: Query, lower: str) -> bool:
    return bool(query.need) and bool(query.said & (FREE | FITS))


def _is_tight(query: Query, lower: str) -> bool:
    return TIGHT.search(lower) is not None and bool(query.words & {"disk", "memory", "swap"})


def _is_amount(query: Query, lower: str) -> bool:
    how = re.search(
        r"\bhow\s+(?:much|many|long|full|hot|warm|big|large|busy)\b|\b(?:usage|use|using|uptime|temperature)\b", lower
    )
    return bool(query.words & KINDS) and (bool(how) or query.free)


def _is_beyond(query: Query, lower: str) -> bool:
    return BEYOND.search(lower) is not None and bool(query.words)


WANTED: dict[Wants, Callable[[Query, str], bool]] = {
    Wants.BEYOND: _is_beyond,
    Wants.ROOM: _is_room,
    Wants.EXTREME: _is_extreme,
    Wants.TIGHT: _is_tight,
    Wants.AMOUNT: _is_amount,
}
"""Tests for each kind, in the order in which they are tried."""


def _noun(lower: str) -> str:
    """Noun that is compared: the first one after `which` or `what`, or at the beginning."""
    match = re.search(r"\b(?:which|what|whose|the|biggest|largest|smallest|busiest|top)\s+(?:\d+\s+)?(\w+)", lower)
    for word in ([match[1]] if match else []) + re.findall(r"\w+", lower):
        if meaning(word) in NOUNS:
            return meaning(word)
    return "host" if lower.startswith("who") else ""


def _need(lower: str) -> int:
    if match := SIZED.search(lower):
        return text.parse_size(f"{match[1]}{match[2]}") or 0
    match = PERCENT.search(lower)
    return int(float(match[1])) if match else 0
