"""What a model says about changes: only results say what was changed, but facts next to such a claim are kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from anvyl_mcp.orchestrator.checks.resolve import FleetObject, best_matches
from anvyl_mcp.orchestrator.language.vocabulary import NUMBERS
from anvyl_mcp.peers.fleet.fleet import Outcome

DONE = r"(?:(?:re)?started|stopped|removed|deleted|created|pulled|executed|updated|deployed|scaled|killed\s+off)"
STATE = r"(?:stopped|started|restarted|removed|deleted|created|pulled|updated|gone|running)"
ADVERBS = r"(?:(?:\w+ly|now|just|already|also|both|all)\s+)*"
ACTIVE = rf"\bI(?:'ve|\s+have)?\s+{ADVERBS}{DONE}\b"
PASSIVE = rf"\b(?:(?:has|have)\s+{ADVERBS}been\s+{DONE}|(?:is|are|was|were)\s+{ADVERBS}{STATE})\b"
CLAIM = re.compile(
    rf"(?P<active>{ACTIVE}|^\W*(?:all\s+)?{DONE}\b|^\W*(?:done|ok(?:ay)?)\b)|(?P<passive>{PASSIVE})", re.I
)
FOUND = re.compile(
    r"(?:is|are|was|were)\s+(?:(?P<before>already|still)\s+)?(?:all\s+|both\s+)?(?:running|stopped|gone)", re.I
)
"""A state, which a model may also have found, and with `before` cannot have brought about."""
PROMISE = re.compile(
    r"\bI(?:'ll|\s+will|'m|\s+am)\s+(?:now\s+|going\s+to\s+)*(?:re)?(?:stop|start|remov|delet|creat|pull|updat)", re.I
)
CONDITION = re.compile(r"\b(?:if|once|when|unless|after|before)\b", re.I)
CLAUSE_END = re.compile(
    r"[.;:()]|,\s+(?=so|and\s+(?:it|they)|which|because)|\b(?:so|because|since|for|which|after|with)\b"
)
LEAVES_STATE = frozenset({"exec_in_container", "execute_command", "pull_image"})
"""Changes after which nothing runs or stops that did not before."""
EMPTY_WORDS = """
i it its them they that this these those the a an and or both all again now too also successfully done ok okay on at in
of to for so host hosts container containers image images stack network volume is are was were has have been be just
already yes as you asked requested
"""
EMPTY = frozenset(EMPTY_WORDS.split())
FEWEST_FACTS = 3
"""Words next to the claim from which a sentence says more than that something was done; of a capable model two."""


@dataclass(frozen=True)
class KnownThings:
    """What a capable model can tell of, besides its changes."""

    hosts: Sequence[str] = ()
    objects: Sequence[FleetObject] = ()
    looked: bool = False
    """Whether it has read something on the hosts."""


def without_claims(said: str, changes: Sequence[Outcome], known: KnownThings | None = None) -> str:
    """The text without the sentences that claim changes which the results do not show, or only what they show.

    `known`: what there is, for a capable model, which is believed unless it names an object that was not changed. Of
    another, every word about a change has to be in the results.
    """
    sentences = re.split(r"(?<=[.!?])\s+", said)
    return " ".join(one for one in sentences if _is_kept(one, changes, known, asks="?" in said))


def _is_kept(sentence: str, changes: Sequence[Outcome], known: KnownThings | None, *, asks: bool) -> bool:
    if PROMISE.search(sentence) and not asks and not CONDITION.search(sentence):
        return False
    claims = list(CLAIM.finditer(sentence))
    if known is not None:
        unchanged = (known.looked or bool(changes)) and all(change.tool in LEAVES_STATE for change in changes)
        claims = [one for one in claims if not _is_found(one[0], unchanged=unchanged)]
    if not claims:
        return True
    if not changes or not all(change.ok for change in changes):
        return False
    changed = _changed_words(changes)
    objects = [word for claim in claims for word in _words(_object_of(sentence, claim)) if word not in changed]
    if known is not None:
        objects = [word for word in objects if _is_unchanged(word, changes, known)]
    facts = {word for word in _words(sentence) if word not in changed and not re.fullmatch(rf"{DONE}|{STATE}", word)}
    return not objects and len(facts) >= FEWEST_FACTS - (known is not None)


def _is_found(claim: str, *, unchanged: bool) -> bool:
    """Whether a claim like `is running` is about a state that the model found, as always if nothing was changed."""
    found = FOUND.fullmatch(claim)
    return found is not None and (unchanged or bool(found["before"]))


def _is_unchanged(word: str, changes: Sequence[Outcome], known: KnownThings) -> bool:
    """Whether a word means a host or an object that was not changed, or another number of them."""
    number = NUMBERS.get(word, word if word.isdigit() else "")
    if number and word != "one":  # a pronoun
        names = {value for change in changes for value in _names(change)}
        return int(number) not in {len(changes), len(names), len({change.host for change in changes})}
    if word in (host.lower() for host in known.hosts):
        return True
    meant = {one.name for one in best_matches([word], known.objects)}
    return bool(meant) and not meant & {name for change in changes for name in _names(change)}


def _names(change: Outcome) -> list[str]:
    return [str(value) for value in change.arguments.values() if isinstance(value, str)]


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
