"""Classify questions about results: the most of something, where something is, what is wrong, and so on.

A question is read from its words alone, so that the answer can be worked out from the same question later.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.lexicon import any_of, english, may_hold, pattern, words_of_language
from anvyl_mcp.orchestrator.language.vocabulary import HOST, NAME, is_name, meaning, meanings


class Wants(Enum):
    """Kinds of questions answered by aggregating results."""

    BEYOND = "which have more or less of something than a bound"
    EXTREME = "which has the most or least of something"
    AMOUNT = "how much of something"
    WHERE = "where something runs"
    TROUBLE = "what is not well"
    UNUSED = "what nothing uses"
    WHY = "why one is as it is"


@dataclass(frozen=True)
class Query:
    """One parsed question: its kind, the measures and the noun of what is compared.

    `free`: about what is left; `bound`: of `BEYOND`, in bytes, or in percent up to `MOST_PERCENT`; `together`: the sum;
    `said`: all words, also as what they stand for.
    """

    wants: Wants
    words: frozenset[str] = frozenset()
    noun: str = ""
    least: bool = False
    free: bool = False
    bound: int = 0
    subject: str = ""
    together: bool = False
    said: frozenset[str] = frozenset()


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
ORDINARY = ENDS | FREE | NOUNS | KINDS | MEASURED.keys()
"""Words that belong to a question that is worked out."""
MOST_PERCENT = 10_000
"""Bounds up to this are percentages, above it bytes."""
NEARLY_FULL = 85
SIZED = re.compile(r"(?i)\b(\d+(?:\.\d+)?)\s*([kmgt])(?:i?b|igs?|egs?|(?:ig|eg)abytes?)?\b")
PERCENT = re.compile(r"(?i)\b(\d+(?:\.\d+)?)\s*(?:%|percent\b)")
BEYOND = re.compile(
    r"\b(?:(?:more|bigger|larger|greater|higher|heavier)\s+than|over|above|at\s+least|exceed(?:s|ing)?"
    r"|(?P<below>(?:less|smaller|lower)\s+than|under|below|at\s+most))\s+\d+(?:\.\d+)?\s*(?:[kmgt]i?b?\b|%|percent\b)"
)
TIGHT = re.compile(
    r"\b(?:run(?:s|ning)?\s+(?:out\s+of|low\s+on)|low\s+on|short\s+(?:of|on)|out\s+of|(?:getting|almost|nearly|too)\s+full"
    r"|(?<!how )full|tight|enough)\b"
)
OF_DOCKER = re.compile(r"\b(?:space|disk|storage)\b.*\bdocker\b|\bdocker\b.*\b(?:space|disk|storage)\b")
"""Disk usage of Docker has its own tool."""
LASTING = re.compile(
    r"\bhow\s+(?:long|many\s+(?:days|hours))\b.*\b(?:up|running|on)|\bup\s+(?:the\s+)?(?:longest|shortest)"
    r"|\b(?:longest|shortest)\s+up|\b(?:re)?boot(?:ed|s)?\b|\buptimes?\b"
)
LATELY = re.compile(r"\b(?:re)?boot\w*\s+(?:most\s+recently|last)\b|\b(?:most\s+recently|last)\s+(?:re)?boot")
"""The most recently started object has the shortest uptime."""
USING = re.compile(
    r"(?:what|who|which\s+\w+)\s+(?:is\s+|are\s+)?(?:us(?:e|es|ing)|eat(?:s|ing)|hogging|consum(?:es|ing))\b"
)
HOW_MUCH = re.compile(
    r"\bhow\s+(?:much|many|long|full|hot|warm|big|large|busy)\b|\b(?:usage|use|using|uptime|temperature)\b"
)
OF_IMAGES = re.compile(r"\b(?!(?:lat|new|old)est\b)[a-z]{3,}est\b")
"""Superlatives; whatever one says of an image, like `fattest`, is about its size."""
ON_A_HOST = re.compile(
    rf"\b(?:on|at|from|in|of)\s+(?:(?:the|my|our)\s+)?(?!(?:which|what|all|any|every|each|the|my|our)\b)[\w.-]+\s+{HOST}\b"
)
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
        _whole(asked, Wants.TROUBLE)
        or _whole(PAUSE.sub(" ", asked), Wants.WHY)
        or _measured(asked.lower())
        or _whole(asked, Wants.WHERE)
    )


@cache
def past_forms(name: str) -> re.Pattern[str]:
    """Pattern for the words of questions about the past, by their entry in the file of the language."""
    return re.compile(any_of(words_of_language("en")["past"][name]), re.IGNORECASE)


def says(name: str, said: str) -> bool:
    """Whether a text has such words: `why`, `who`, `how_often`."""
    return past_forms(name).search(said) is not None


@cache
def _form(form: str) -> re.Pattern[str]:
    """Pattern of a complete question, without hosts; `{subject}` is what it is about."""
    parts = {"subject": f"(?P<subject>{NAME})", "port": r"(?P<subject>\d+)", "host": HOST}
    return re.compile(re.sub(r"\\\{(\w+)\\\}", lambda part: parts[part[1]], pattern(form)), re.IGNORECASE)


def _whole(asked: str, wants: Wants) -> Query | None:
    forms = [form for form in _EN[wants.name.lower()] if may_hold(asked.lower(), form)]
    for match in (found for form in forms if (found := _form(form).fullmatch(asked))):
        subject = match.groupdict().get("subject") or ""
        if not subject or is_name(subject):
            return Query(wants, subject=subject)
    return None


def _measured(lower: str) -> Query | None:
    """A question about a measure of something that is counted or compared, in small letters."""
    lower = ON_A_HOST.sub(" ", lower)  # `the gpu box` is not what is compared
    words_said = SIZED.sub(" ", lower)
    typed = re.findall(r"[a-z][a-z0-9-]*", words_said)
    said = frozenset(meanings(words_said)) | frozenset(typed)
    noun, bound = _noun(lower), _bound(lower)
    words = {MEASURED.get(word, word) for word in said} | ({"uptime"} if LASTING.search(lower) else set())
    if noun != "image":  # the only measure of an image is its size
        words |= {SUPERLATIVES[word][1] for word in typed if word in SUPERLATIVES}
    kinds, nouns = frozenset(words & KINDS), frozenset(words & NOUNS)
    if OF_DOCKER.search(lower) or not (kinds or nouns or bound):
        return None
    query = Query(Wants.AMOUNT, kinds, noun, free=bool(said & FREE), together="together" in said, said=said)
    if (kinds or nouns) and (beyond := BEYOND.search(lower)):
        usual = "size" if noun == "image" else "cpu" if bound <= MOST_PERCENT else "memory"
        below = beyond["below"] is not None
        return replace(query, wants=Wants.BEYOND, words=kinds or frozenset({usual}), least=below, bound=bound)
    if bound and said & (FREE | FITS):
        room = kinds or frozenset({"memory", "disk"})
        return replace(query, wants=Wants.BEYOND, words=room, noun="host", free=True, bound=bound)
    using = USING.match(lower)
    ends = said & ENDS or (noun == "image" and OF_IMAGES.search(lower))
    if kinds if using else ends and (kinds or nouns):
        least = any(word in LEAST or SUPERLATIVES.get(word, (False, ""))[0] for word in typed)
        biggest = noun == "image" or said & {"biggest", "largest", "smallest"}
        compared = kinds or nouns - {noun} or frozenset({"size"} if biggest else ())
        return replace(query, wants=Wants.EXTREME, words=compared, least=least or bool(LATELY.search(lower)))
    if TIGHT.search(lower) and kinds & {"disk", "memory", "swap"}:
        return replace(query, wants=Wants.BEYOND, noun="host", bound=NEARLY_FULL)
    return query if kinds and (query.free or query.together or HOW_MUCH.search(lower)) else None


def _noun(lower: str) -> str:
    """Noun that is compared: the first one after `which` or `what`, or at the beginning."""
    match = re.search(r"\b(?:which|what|whose|the|biggest|largest|smallest|busiest|top)\s+(?:\d+\s+)?(\w+)", lower)
    for word in ([match[1]] if match else []) + re.findall(r"\w+", lower):
        if meaning(word) in NOUNS:
            return meaning(word)
    # Who has something is a host, who uses something a container.
    return "host" if lower.startswith("who") and not USING.match(lower) else ""


def _bound(lower: str) -> int:
    if match := SIZED.search(lower):
        return text.parse_size(f"{match[1]}{match[2]}") or 0
    match = PERCENT.search(lower)
    return int(float(match[1])) if match else 0
