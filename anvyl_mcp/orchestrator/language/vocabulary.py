"""Vocabulary of the rules, from the English file: synonyms, states, fillers, and what a word stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from functools import lru_cache

from anvyl_mcp.orchestrator.language.lexicon import any_of, english, words_of_language

_EN = words_of_language("en")
SAME: tuple[tuple[str, ...], ...] = tuple(
    (first, *(other for word in words.split(",") if (other := word.strip()) != first))
    for first, words in _EN["same"].items()
)
"""Synonyms; the first one represents all."""
STANDS_FOR: dict[str, str] = {word: words[0] for words in SAME for word in words}
STATES: dict[str, set[str]] = {state: set(words.split()) for state, words in _EN["states"].items()}
"""Words for states, with the values in results."""
KINDS = {kind: tuple(words.split()) for kind, words in _EN["kinds"].items()}
"""Nouns for objects of a kind."""
NUMBERS = dict(pair.split("=") for pair in _EN["words"]["numbers"].split())
COUNTED = {word: int(number) for word, number in (pair.split("=") for pair in _EN["words"]["counted"].split())}

ARTICLES = english("words", "articles")
GLUE = english("words", "glue")
CONNECTORS = english("words", "connectors")
PADDING = english("words", "padding") | STATES.keys()
"""Fillers in questions; in requests for a change they are significant."""
EMPTY = (ARTICLES | GLUE | CONNECTORS | PADDING) - STATES.keys() | english("words", "empty")
"""Words that do not help to select a tool."""
NO_NAMES = english("words", "no_names")
RESERVED = EMPTY | NO_NAMES | STATES.keys() | STANDS_FOR.keys()
"""Words that are names only in quotes."""
FILLERS = english("words", "fillers") | ARTICLES
DETERMINERS = english("words", "determiners")
REFUSING = re.compile(
    r"(?i)\b(?:not|never|no|cannot|\w+n't|dont|without|except|excluding|unless|until|but|instead|if)(?![\w-])"
)
"""Words that change the meaning of the whole sentence."""
FREE_TEXT = frozenset({"command", "query", "message", "text"})
"""Arguments that take the rest of the sentence."""
MARK = "[\ue000-\uf8ff]"
"""Placeholder for a quoted text."""
NAME = rf"(?:{MARK}|\w(?:[\w./:@-]*\w)?)"
LEAD_IN = re.compile(rf"(?i)(?:{any_of(_EN['politeness']['lead'])}[\s,:]+)+")
"""Politeness at the beginning of a clause."""
POLITE = re.compile(rf"(?i){any_of(_EN['politeness']['anywhere'])}")


def without_lead(said: str) -> str:
    """A text without politeness at its beginning."""
    lead = LEAD_IN.match(said)
    return said[lead.end() :] if lead else said


def singular(word: str) -> str:
    """`containers` → `container`, `boxes` → `box`."""
    if word.endswith(("xes", "ches", "sses")):
        return word[:-2]
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plural else word


def meaning(word: str) -> str:
    """Normalized form of a word and its synonyms."""
    one = singular(word.lower())
    return STANDS_FOR.get(one, one)


def meanings(sentence: str) -> list[str]:
    """Normalized words of a sentence, including phrasal verbs: `shut down` is `stop`."""
    lower = sentence.lower()
    together = [stands for words, stands in STANDS_FOR.items() if " " in words and words in lower]
    return [meaning(word) for word in re.findall(r"[a-z][a-z0-9-]*", lower)] + together


def either(words: Iterable[str]) -> str:
    """Pattern for any of the words, the longest first."""
    return "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in sorted(words, key=len, reverse=True))


@lru_cache(maxsize=512)
def literal(word: str) -> str:
    """Pattern for a word, its synonyms and plurals."""
    stands = meaning(word)
    return rf"(?:{either({stands, *(other for other, same in STANDS_FOR.items() if same == stands)})})(?:e?s)?"


HOST = literal("host")


def is_name(word: str, verbs: Set[str] = frozenset()) -> bool:
    """Whether a word can be a name: quoted, or not in the vocabulary."""
    return bool(re.fullmatch(MARK, word)) or not {word.lower(), meaning(word)} & (RESERVED | verbs)


def kinds_said(kind: str) -> frozenset[str]:
    """Nouns for a kind, singular and plural."""
    return frozenset(f"{noun}{ending}" for noun in KINDS.get(kind, (kind,)) for ending in ("", "s"))
