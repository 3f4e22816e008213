"""Words that the rules do not know: an order that no tool supports, or a thing that does not exist."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.orchestrator.checks.resolve import ROLES
from anvyl_mcp.orchestrator.language import questions
from anvyl_mcp.orchestrator.language.intent import ASKS, verbs_of
from anvyl_mcp.orchestrator.language.lexicon import all_words, english
from anvyl_mcp.orchestrator.language.stemming import LEAST_LETTERS, nearest, stem
from anvyl_mcp.orchestrator.language.vocabulary import (
    DETERMINERS,
    EMPTY,
    FILLERS,
    KINDS,
    LEAD_IN,
    MARK,
    NUMBERS,
    RESERVED,
    STANDS_FOR,
    kinds_said,
    meaning,
)
from anvyl_mcp.orchestrator.rules.orders.scene import Scene
from anvyl_mcp.orchestrator.rules.tool_scores import cues_of

WORD = re.compile(rf"{MARK}|[^\W_][\w./:@-]*")
UNSUPPORTED = english("unsupported", "verbs")
"""Verbs of orders that no tool supports, unless one says so; some also occur in questions."""
NEVER = english("unsupported", "never")
"""Verbs of requests that have nothing to do with containers."""
UNMET = english("unsupported", "asked")
"""Words of questions that must not be left out of the answer."""
NEWNESS = frozenset(map(stem, english("unsupported", "newness")))
"""Stems of words that only a tool with such a word answers."""
ASKED_OF_ONE = english("words", "asked_of_one")
"""Words that ask for everything about one object."""
NOUNS = kinds_said("container")
ORDINARY = EMPTY | FILLERS | RESERVED | STANDS_FOR.keys() | ASKED_OF_ONE | questions.ORDINARY
"""Words that say nothing by themselves, or belong to a question that is worked out."""
UNABLE = re.compile(
    r"\bwhenever\b|^\W*give\s+(?!me\b|us\b)\S+\s+(?:more|less|another|extra)\b|\bevery\s+(?:\w+day|day|night|morning|evening|hour|week|month|\d+)\b",
    re.IGNORECASE,
)
SUBJECT = (
    r"\b(?:do|does|did|is|are|has|have|had|was|were)\s+(?:(?:the|my|our)\s+)?{word}\s+(?:container\s+)?(?:been\s+)?"
    r"(?:us(?:e|es|ing)|need|tak(?:e|ing)|eat(?:ing)?|consum\w+|running|up|down|reachable|online|offline|available|alive"
    r"|healthy|ok|fine)\b"
    r"|\b(?:cpu|memory|ram|disk|usage|uptime|load|stats|statistics)\s+(?:(?:usage|use|load)\s+)?of\s+"
    r"(?:(?:the|my|our)\s+)?{word}\W*$"
)
"""Position of the subject in a question."""


class Vocabulary:
    """Words known to the rules: their own, those of tools, and names of objects."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        tools = list(scene.tools.values())
        stemmed = {word for tool in tools for cue in cues_of(tool) for word in cue}
        stemmed |= {stem(word) for tool in tools for word in tool.arguments}
        self._words = ORDINARY | NUMBERS.keys() | {word for words in KINDS.values() for word in words}
        self._stems = stemmed | {stem(word) for word in self._words}
        phrases = [phrase for tool in tools for phrase in tool.say]
        self._spoken = {stem(word) for phrase in phrases for word in re.sub(r"\{\w+\}", "", phrase).split()}
        self.offered_verbs = {verb for tool in tools if not tool.reads for verb in verbs_of(tool)}

    def names(self, word: str) -> bool:
        """Whether a word is a name of an object or a host, or a part of one."""
        known = {name.lower() for kind in self._scene.objects for name in self._scene.names(kind)}
        parts = known | {part for name in known for part in re.split(r"[-_./:]+", name)}
        parts |= {host.lower() for host in self._scene.places.hosts} | self._scene.places.tags
        return word in parts or word.rstrip("s") in parts

    def knows(self, word: str) -> bool:
        """Whether a word is known."""
        word = word.strip(".:/@-").lower()
        if not word or word[0].isdigit() or re.match(MARK, word) or self.names(word):
            return True
        return word in self._words or stem(word) in self._stems or bool(ASKS.fullmatch(word))

    def all_known(self, said: str) -> bool:
        """Whether no word may be a name of an object."""
        hosts = {host.lower() for host in self._scene.places.hosts}
        ours = {stem(word) for word in (*UNSUPPORTED, *NEVER)}
        return all(
            word in hosts
            or word[:1].isdigit()
            or ((word in self._words or stem(word) in self._spoken or ASKS.fullmatch(word)) and stem(word) not in ours)
            for word in _words(said)
        )

    def mended(self, masked: str) -> tuple[str, dict[str, str]]:
        """The text with typos of known words corrected, and the corrections; names are not changed."""
        ours = {word for tool in self._scene.tools.values() for phrase in tool.say for word in phrase.split()}
        ours |= {word for words in KINDS.values() for noun in words for word in (noun, f"{noun}s")} | ROLES.keys()
        ours = {word for word in ours | STANDS_FOR.keys() | questions.KINDS | questions.NOUNS if word.isalpha()}
        found: dict[str, str] = {}

        def better(match: re.Match[str]) -> str:
            word = match[0].lower()
            if len(word) < LEAST_LETTERS - 1 or word in all_words() or stem(word) in self._stems or self.names(word):
                return match[0]
            if word in ours or ASKS.fullmatch(word) or not (near := nearest(word, ours)):
                return match[0]
            if word.startswith(near.rstrip("e")):
                return match[0]  # another form of it: `deleted`
            found[match[0]] = near
            return near

        return re.sub(r"(?<![\w./:@=-])[A-Za-z]+(?![\w/@=-]|[.:]\w)", better, masked), found


def is_ordinary(word: str) -> bool:
    """Whether a word says nothing by itself, or belongs to a question that is worked out."""
    ordinary = {word, stem(word), meaning(word)} & (ORDINARY | NOUNS)
    return bool(ordinary) or word[:1].isdigit() or bool(ASKS.fullmatch(word))


def is_subject(word: str, masked: str) -> bool:
    """Whether a word stands where the subject of a question does."""
    found = re.search(SUBJECT.format(word=re.escape(word)), masked, re.IGNORECASE)
    return found is not None and not word.endswith(("ed", "ing"))


def begins_like_an_order(masked: str) -> bool:
    """Whether the first word is a verb of an order that no tool may support."""
    words = _words(masked)
    return bool(words) and (words[0] in UNSUPPORTED or words[0] in NEVER)


def check_order(masked: str, known: Vocabulary) -> None:
    """Check that a sentence is no order that no tool supports.

    Raises:
        NotUnderstood: it is.
    """
    words = _words(masked)
    if UNABLE.search(masked) or (words and words[0] in NEVER and not known.names(words[0])):
        raise NotUnderstood(
            f"no tool of these hosts can do `{' '.join(masked.split())[:80]}`", hint="see what can be done: anvyl tools"
        )
    if not words or not _is_order(masked, words, known):
        return
    verb = "back up" if words[:2] == ["back", "up"] else words[0]
    raise NotUnderstood(
        f"no rule supports `{verb}`; nothing was done",
        hint="list the tools: anvyl tools; a language model understands more: anvyl doctor",
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
    """Whether a sentence begins with an unsupported verb in front of an object."""
    first, rest = words[0], list(words[1:])
    determined = bool(rest) and rest[0] in DETERMINERS
    while rest and (rest[0] in DETERMINERS or rest[0] in NOUNS):
        rest.pop(0)
    names = bool(rest) and known.names(rest[0])
    if first in UNSUPPORTED or list(words[:2]) == ["back", "up"]:
        if known.names(first) and not determined and not names:
            return False
        return names or determined or (bool(rest) and not known.knows(rest[0]))
    return names and "?" not in masked and not known.knows(first)
