"""Check for words that no parser consumed, which may change the meaning of a question.

One check after all readers, on questions that would only be looked at: an unknown verb in front is an order that was
not understood, an unknown thing is not answered with figures of machines, nor the past with the present.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.orchestrator.language import questions
from anvyl_mcp.orchestrator.language.coverage import FILLERS, KINDS
from anvyl_mcp.orchestrator.language.intent import ASKS, LEAD_IN
from anvyl_mcp.orchestrator.language.stemming import LEAST_LETTERS, stem, stems
from anvyl_mcp.orchestrator.language.vocabulary import EMPTY, MARK, RESERVED, STANDS_FOR, words_in
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.orchestrator.rules.tool_scores import cues_of
from anvyl_mcp.peers.connection.listing import ToolListing

WORD = re.compile(rf"{MARK}|[^\W_][\w./:@-]*")
NO_VERBS = words_in(
    "unpause pause rename scale upgrade move migrate relocate transfer copy clone duplicate backup limit throttle cap "
    "change set adjust edit configure reconfigure modify open expose forward mount unmount resize increase decrease "
    "raise lower replace swap rotate rebuild redeploy roll rollback revert restore save export import commit tag push "
    "build downgrade freeze suspend hibernate block allow encrypt archive sync"
)
"""Verbs of commands that no rule supports; some also occur in questions."""
DETERMINERS = words_in("a an the my our all every each both these those this that up it them")
NOUNS = frozenset(f"{noun}{ending}" for noun in KINDS["container"] for ending in ("", "s"))
WHO_DID = re.compile(
    r"(?i)^\W*who(?:\s+has|'s|\s+was\s+it\s+(?:that|who))?\s+"
    r"(?:stopped|started|restarted|removed|deleted|killed|created|changed|updated|rebooted|pulled|paused|renamed)\b"
)
PAST = re.compile(
    r"(?i)\b(?P<when>yesterday|last\s+(?:night|week|month|year|evening|weekend|(?:mon|tues|wednes|thurs|fri|satur|sun)day)"
    r"|(?:an?|\d+|few|two|three)\s+(?:minutes?|hours?|days?|weeks?|months?)\s+ago|this\s+morning|earlier\s+today)\b"
)
MADE = re.compile(r"(?i)\b(?:created|built|made|pulled|older|newer|started|since|born|up)\b")
"""Questions about the past that current data answers: creation and start times."""
SUBJECT = (
    r"\b(?:do|does|did|is|are|has|have|was|were)\s+(?:(?:the|my|our)\s+)?{word}\s+(?:container\s+)?(?:been\s+)?"
    r"(?:us(?:e|es|ing)|need|tak(?:e|ing)|eat(?:ing)?|consum\w+|running|up|down|reachable|online|offline|available|alive"
    r"|healthy|ok|fine)\b"
    r"|\b(?:cpu|memory|ram|disk|usage|uptime|load|stats|statistics)\s+(?:(?:usage|use|load)\s+)?of\s+"
    r"(?:(?:the|my|our)\s+)?{word}\W*$"
)
"""Position of the subject in a question."""
ASKED_OF_ONE = words_in("about tell detail details status state info information look inspect")
"""Words that ask for everything about one object."""


class Vocabulary:
    """Words known to the rules: their own, those of tools, and object names."""

    def __init__(self, tools: Iterable[ToolListing], things: Iterable[str], hosts: Iterable[str]) -> None:
        tools = list(tools)
        self._stems = {word for tool in tools for cue in cues_of(tool) for word in cue}
        self._stems |= {stem(word) for tool in tools for word in tool.arguments}
        own = (
            EMPTY | RESERVED | STANDS_FOR.keys() | FILLERS | questions.ENDS | questions.MEASURED.keys() | questions.FREE
        )
        self._words = own | questions.KINDS | questions.NOUNS | {word for words in KINDS.values() for word in words}
        self._stems |= {stem(word) for word in self._words}
        self._things = {name.lower() for name in things}
        self._names = self._things | {part for name in self._things for part in re.split(r"[-_./:]+", name)}
        self._names |= {host.lower().lstrip("@") for host in hosts}
        self._changes = {stem(phrase.split()[0]) for tool in tools if not tool.reads for phrase in tool.say}

    def names(self, word: str) -> bool:
        """Whether a word is an object name or a part of one."""
        return word in self._names or word.rstrip("s") in self._names

    def knows(self, word: str) -> bool:
        """Whether a word is known, also with a typo."""
        word = word.strip(".:/@-").lower()
        if not word or word[0].isdigit() or re.match(MARK, word) or self.names(word):
            return True
        if word in self._words or stem(word) in self._stems or ASKS.fullmatch(f"{word}"):
            return True
        return bool(self._near(word))

    def _near(self, word: str) -> list[str]:
        """Known words that a word may be a typo of, without verbs of changes."""
        ours = sorted(one for one in self._stems | self._words if len(one) > 3)
        swapped = [one for one in ours if sorted(one) == sorted(word)]
        near = swapped or (get_close_matches(word, ours, 3, 0.8) if len(word) >= LEAST_LETTERS else [])
        return [] if any(stem(one) in self._changes for one in near) else near


def unknown_subject(masked: str, calls: Sequence[Call], known: Vocabulary) -> str:
    """Subject of a question that is unknown and in no call, or empty."""
    taken, query = _values(calls), questions.read(masked)
    if query and query.subject:
        return ""  # the answer says whether there is such a thing
    if any(call.arguments.get(name) for call in calls for name in (*call.listing.names, "name")):
        return ""
    for word in _words(masked):
        is_subject = re.search(SUBJECT.format(word=re.escape(word)), masked, re.IGNORECASE)
        if is_subject and not word.endswith(("ed", "ing")) and word not in taken and not known.knows(word):
            return word
    return ""


def is_doubtful(masked: str, calls: Sequence[Call], known: Vocabulary) -> bool:
    """Whether object names are needed to decide; `known` has none of them."""
    first = next(iter(_words(masked)), "")
    return first in NO_VERBS or not known.knows(first) or bool(unknown_subject(masked, calls, known))


def check(masked: str, calls: Sequence[Call], known: Vocabulary) -> None:
    """Check that reading calls answer the question.

    Raises:
        NotUnderstood: it is a command, or asks about the past or about an unknown object.
    """
    words = _words(masked)
    first = words[0] if words else ""
    if words and (first in NO_VERBS or first not in _values(calls)) and _is_order(masked, words, known):
        verb = "back up" if words[:2] == ["back", "up"] else words[0]
        raise NotUnderstood(
            f"no rule supports `{verb}`; nothing was done",
            hint="list the tools: anvyl tools; a language model understands more: anvyl doctor",
        )
    if WHO_DID.match(masked) and not any(call.listing.toolset == "history" for call in calls):
        raise NotUnderstood("the audit log of a host shows who made a change", hint="run on that host: anvyl-mcp audit")
    if (past := PAST.search(masked)) and not MADE.search(masked):
        if not any("since" in call.listing.arguments for call in calls):
            when = " ".join(past["when"].split())
            raise NotUnderstood(
                f"I can only see how things are now, not how they were `{when}`",
                hint="logs and events reach back: show logs of web since 24h",
            )
        _reach_back(past["when"].lower(), calls)
    if subject := unknown_subject(masked, calls, known):
        raise NotUnderstood(
            f"nothing is named `{subject}` on these hosts",
            hint="list all containers: anvyl ps --all",
        )


def only_names(said: str, names: Iterable[str]) -> bool:
    """Whether the words only name objects: `grafana`, `what about grafana`."""
    parts = {part for name in names for part in (name.lower(), *re.split(r"[-_.]+", name.lower()))}
    plain = EMPTY | FILLERS | ASKED_OF_ONE | RESERVED | {"container", "containers"}
    return all(word in plain or word in parts for word in _words(said))


def _words(masked: str) -> list[str]:
    lower = re.sub(r"(?<=\w)'s\b", " ", masked.lower().strip())
    lead = LEAD_IN.match(lower)
    return [word.strip(".:-/") for word in WORD.findall(lower[lead.end() if lead else 0 :])]


def _is_order(masked: str, words: Sequence[str], known: Vocabulary) -> bool:
    """Whether a sentence begins with an unsupported verb in front of an object name."""
    first, rest = words[0], list(words[1:])
    determined = bool(rest) and rest[0] in DETERMINERS
    while rest and (rest[0] in DETERMINERS or rest[0] in NOUNS):
        rest.pop(0)
    names = bool(rest) and known.names(rest[0])
    if first in NO_VERBS or list(words[:2]) == ["back", "up"]:
        return names or determined or (bool(rest) and not known.knows(rest[0]))
    return names and "?" not in masked and not known.knows(first)


def _values(calls: Sequence[Call]) -> set[str]:
    """Words that became arguments."""
    return {word.lower() for call in calls for value in call.arguments.values() for word in stems_and_words(str(value))}


def stems_and_words(value: str) -> list[str]:
    """Words of a value and their stems."""
    return [*re.split(r"[\s,]+", value), *stems(value)]


REACH: Mapping[str, str] = {
    "yesterday": "48h",
    "last night": "24h",
    "last week": "14d",
    "last month": "60d",
    "last year": "720d",
}


def _reach_back(when: str, calls: Sequence[Call]) -> None:
    """Extend `since` to the time that the question mentions."""
    for call in calls:
        if "since" in call.listing.arguments and not call.arguments.get("since"):
            call.arguments["since"] = REACH.get(" ".join(when.split()), "8d" if "last " in when else "48h")
