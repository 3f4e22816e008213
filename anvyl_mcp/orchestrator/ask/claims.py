"""What a model says about changes: only results say what was changed, but facts next to such a claim are kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from anvyl_mcp.peers.fleet.fleet import Outcome

DONE = r"(?:(?:re)?started|stopped|removed|deleted|created|pulled|executed|updated|deployed|scaled|killed\s+off)"
STATE = r"(?:stopped|started|restarted|removed|deleted|created|pulled|updated|gone|running)"
ADVERBS = r"(?:(?:\w+ly|now|just|already|also|both|all)\s+)*"
ACTIVE = rf"\bI(?:'ve|\s+have)?\s+{ADVERBS}{DONE}\b"
PASSIVE = rf"\b(?:(?:has|have)\s+{ADVERBS}been\s+{DONE}|(?:is|are|was|were)\s+{ADVERBS}{STATE})\b"
CLAIM = re.compile(
    rf"(?P<active>{ACTIVE}|^\W*(?:all\s+)?{DONE}\b|^\W*(?:done|ok(?:ay)?)\b)|(?P<passive>{PASSIVE})", re.I
)
PROMISE = re.compile(
    r"\bI(?:'ll|\s+will|'m|\s+am)\s+(?:now\s+|going\s+to\s+)*(?:re)?(?:stop|start|remov|delet|creat|pull|updat)", re.I
)
CONDITION = re.compile(r"\b(?:if|once|when|unless|after|before)\b", re.I)
CLAUSE_END = re.compile(
    r"[.;:()]|,\s+(?=so|and\s+(?:it|they)|which|because)|\b(?:so|because|since|for|which|after|with)\b"
)
EMPTY_WORDS = """
i it its them they that this these those the a an and or both all again now too also successfully done ok okay on at in
of to for so host hosts container containers image images stack network volume is are was were has have been be just
already yes as you asked requested
"""
EMPTY = frozenset(EMPTY_WORDS.split())
FEWEST_FACTS = 3
"""Words next to the claim from which a sentence says more than that something was done."""


def without_claims(said: str, changes: Sequence[Outcome]) -> str:
    """The text without the sentences that claim changes which the results do not show, or only what they show."""
    sentences = re.split(r"(?<=[.!?])\s+", said)
    return " ".join(one for one in sentences if _is_kept(one, changes, asks="?" in said))


def _is_kept(sentence: str, changes: Sequence[Outcome], *, asks: bool) -> bool:
    if PROMISE.search(sentence) and not asks and not CONDITION.search(sentence):
        return False
    claims = list(CLAIM.finditer(sentence))
    if not claims:
        return True
    if not changes or not all(change.ok for change in changes):
        return False
    known = _changed_words(changes)
    objects = [word for claim in claims for word in _words(_object_of(sentence, claim)) if word not in known]
    facts = {word for word in _words(sentence) if word not in known and not re.fullmatch(rf"{DONE}|{STATE}", word)}
    return not objects and len(facts) >= FEWEST_FACTS


def _object_of(sentence: str, claim: re.Match[str]) -> str:
    """The words that say what was changed: after an active verb, before a passive one."""
    if claim["active"]:
        return CLAUSE_END.split(sentence[claim.end() :], maxsplit=1)[0]
    return CLAUSE_END.split(sentence[: claim.start()])[-1]


def _changed_words(changes: Iterable[Outcome]) -> frozenset[str]:
    """Words of the hosts and of the arguments of the changes."""
    parts = [part for change in changes for part in (change.host, *map(str, change.arguments.values()))]
    return frozenset(word for part in parts for word in [part.lower(), *_words(part)]) | EMPTY


def _words(said: str) -> list[str]:
    return [word for word in re.findall(r"[\w./:@=-]*\w", said.lower()) if word not in EMPTY]
