"""Words of an order that no reader took: harmless ones are shown as ignored, others keep it from being read.

Inside an order every word counts. A clause next to it may say why (`the dashboards hang`), unless it holds a word that
could turn the order: a condition, a doubt, somebody else's words, something to keep.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.orchestrator.language.lexicon import any_of, words_of_language
from anvyl_mcp.orchestrator.language.places import name_pattern

SAY_IT_WITHOUT = "say it without that, or step by step; a language model understands more: anvyl doctor"
_BLOCKING = words_of_language("en")["blocking"]
TURNS = {reason: re.compile(any_of(forms), re.IGNORECASE) for reason, forms in _BLOCKING.items()}
"""Words that change the meaning of an order, by reason."""
IN_REMARKS = ("condition", "doubt", "quotation", "keeping", "choice")
WHY = {
    "negation": "it may mean the opposite",
    "exception": "it is not clear what it leaves out",
    "condition": "conditions on anything but the state of a container are not supported",
    "time": "Anvyl acts now; it cannot wait or repeat",
    "doubt": "it is not clear whether you mean it",
    "quotation": "it may be somebody else's wish",
    "keeping": "it is not clear what should stay",
    "choice": "it leaves a choice",
}
HARMLESS = re.compile(
    r"\b(?:is|are|am|was|does|do|will|has|have)\s+not\s+(?:\w+\s+)?(?:needed|used|in\s+use|required|load|start|work|respond|answer"
    r"|come\s+up|connect|react|reachable|(?:work|respond|answer|load)ing|loaded|started|responded)(?:\s+any\s*more)?\b"
    r"|\bno\s+longer\s+(?:needed|used|need(?:ed)?\s+it|in\s+use)|\bno\s+\w+\s+(?:needed|required|necessary)"
    r"|\b(?:do|does)\s+not\s+need\s+(?!to\b)(?:(?:the|its|any|this|that)\s+)?\S+(?:\s+any\s*more)?"
    r"|\b(?:has|have|is|are|there\s+is)\s+no\s+\w+\s+(?:left|free)"
    r"|\b(?:nobody|no\s+one|noone)\s+(?:\w+\s+)?(?:needs?|uses?|is\s+using|wants?|misses|cares)\b(?:\s+(?:it|them|that))?(?:\s+any\s*more)?"
    r"|\binstead(?=\W*$)",
    re.IGNORECASE,
)
"""Negations that describe, and change no order."""
REASON = re.compile(
    r"\s(?:because|cos|cuz|so\s+that|so(?=\s+(?:i|we|it|they|the|that|\S+\s+(?:can|has|have))\b)"
    r"|(?:as|since)(?=\s+(?:i|we|it|they|the|nobody|there)\b))\s"
    r"|(?<=\w)\s+(?=(?:i|we)(?:'ve|'ll|\s+(?:am|are|have|had|was|were|need))\b)",
    re.IGNORECASE,
)
"""Begins the reason of an order."""
PURPOSE = re.compile(
    r"(?i)(?:\b(?:in\s+order\s+)?to\s+(?!(?:be|go)\b)[a-z]{3,}(?:\s+[a-z'-]+){0,5}|\bso\s+(?:that\s+)?\S+\s+(?:can|could|will|has|have)\s+[^,.;:]*)\W*$"
)
SAKE = re.compile(
    r"\bfor\s+(?P<what>(?:(?:the|a|an|our|my|some|more|new|its|their)\s+)*[\w-]+"
    r"(?:\s+(?!(?:on|at|in|from|with|and|to|of|please)\b)[\w-]+){0,2}(?:\s+of\s+(?:the\s+)?[\w-]+)?)",
    re.IGNORECASE,
)
LASTING = re.compile(
    r"(?i)\d|\b(?:seconds|minutes|hours?|days|weeks?|months?|years?"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day|one|two|three|five|ten|half|few|couple|each|tomorrow)\b"
)
"""A duration or time that requires a later action; `for a while` and `for today` do not."""
NOT_ASKING = r"(?!(?:where|how|who|whose|what|which|why|when|is|are|was|were|had|has|have|did|does|do|can|could)\b)"
SUBJECT = re.compile(
    r"(?i)^\W*(?:(?:and|so|well|also|because|as|since|but|because|long\s+story)\W+)*"
    r"(?:i|we|it|its|they|he|she|this|that|these|there|the|my|our|your|their|his|her|some|something|somebody|someone|people|users"
    r"|customers|guests|kids|every(?:one|body|thing)|nobody|noone|no\s+one|all\s+of|both\s+of"
    rf"|{NOT_ASKING}(?:[^\s,]+\s+){{1,4}}?(?:is|are|was|were|has|have|had|keeps?|seems?|looks?|feels?|got|broke|went|ran|hung|hangs?|needs?)"
    r"|done\s+with|finished\s+with|too\s+(?:much|many|hot|loud|slow|full|big)|broken|slow|useless|out\s+of)\b"
)
"""How a clause begins that states something."""
VERBLESS = re.compile(r"(?i)\b(?:one|ones|first|second|third|other|others|rest|same|latter|former)\b")
STATES_SOMETHING = re.compile(
    r"(?i)\b(?:is|are|am|was|were|has|have|had|'s|'re|keeps?|seems?|looks?|feels?|got|gets|broke|went|ran|hangs?|hung|does|do|did|will"
    r"|need(?:s|ed)?|acts?|acting|\w{3,}(?:s|ed|ing))\b"
)
FINITE = re.compile(
    r"(?i)\b(?:is|are|was|were|has|have|had|keeps|seems|looks|feels|got|broke|went|ran|hung|hangs|needs)\b"
)
BARE_IT = re.compile(r"(?i)^\W*(?:\S+\s+)?(?:is|are)\s+it\W*$")


def refused(word: str, reason: str) -> NotUnderstood:
    """Why a word keeps an order from being read."""
    return NotUnderstood(f"`{text.clean(word.strip())[:60]}` is not understood here: {reason}", hint=SAY_IT_WITHOUT)


def turned(words: str, reasons: Iterable[str] = tuple(_BLOCKING)) -> NotUnderstood | None:
    """Why the first word that may turn an order keeps it from being read; None if there is none."""
    word, reason = turning_word(words, reasons)
    return refused(word, WHY[reason]) if word else None


def turning_word(words: str, reasons: Iterable[str] = tuple(_BLOCKING)) -> tuple[str, str]:
    """The first word that may turn an order, and the reason; both empty if there is none."""
    plain = HARMLESS.sub(lambda match: " " * len(match[0]), words)
    found = [(match.start(), match[0], reason) for reason in reasons if (match := TURNS[reason].search(plain))]
    return min(found)[1:] if found else ("", "")


def is_remark(words: str, names: Iterable[str]) -> bool:
    """Whether a clause only says how things are: no order, condition or opinion."""
    plain = HARMLESS.sub(" it is unneeded ", words)
    for name in sorted(set(names), key=len, reverse=True):
        if found := name_pattern(name):
            plain = found.sub(" it ", plain)
    plain = re.sub(r"\bit(?:\s+(?:(?:on|of|in|from|at|and)\s+)?(?:the\s+)?it)+\b", "it", " ".join(plain.split()))
    if "?" in words or BARE_IT.match(plain) or turning_word(plain, IN_REMARKS)[0]:
        return False
    if VERBLESS.search(plain) and not re.search(r"(?i)\b(?:is|are|was|has|have)\b", plain):
        return False
    subject = SUBJECT.match(plain)
    said = plain[subject.end() :] if subject else ""
    return bool(subject) and (
        bool(FINITE.search(plain)) or bool(STATES_SOMETHING.search(said)) or len(said.split()) > 1
    )


def without_reason(words: str, names: Iterable[str]) -> tuple[str, list[str]]:
    """An order with the reason for it blanked out, and that reason."""
    said: list[str] = []

    def blank(match: re.Match[str]) -> str:
        said.append(match[0].strip())
        return " " * len(match[0])

    if reason := REASON.search(words):
        why = words[reason.end() :]
        if re.search(r"(?i)\b(?:because|cos|cuz)\b", reason[0]) or is_remark(why, names):
            said.append(words[reason.start() :].strip())
            words = words[: reason.start()] + " " * (len(words) - reason.start())
    words = SAKE.sub(
        lambda match: match[0] if LASTING.search(match["what"]) or name_said(match["what"], names) else blank(match),
        words,
    )
    return words, said


def purpose_in(words: str) -> re.Match[str] | None:
    """What an order is for, at its end: `to free some memory`."""
    found = PURPOSE.search(words)
    return found if found and not LASTING.search(found[0]) and not turning_word(found[0])[0] else None


def name_said(words: str, names: Iterable[str]) -> bool:
    """Whether words hold one of the names."""
    return any(found.search(words) for name in names if (found := name_pattern(name)))
