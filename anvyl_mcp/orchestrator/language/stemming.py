"""Stemming and typo correction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches
from functools import lru_cache

from anvyl_mcp.orchestrator.language.vocabulary import ARTICLES, meaning

LEAST_LETTERS = 5
"""Minimum length of a word that may be a typo."""
ALIKE = 0.84
GAP = 2
"""Words allowed between two words of a phrase."""


@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """Stem of a word, the same for all its forms."""
    left = meaning(word)
    for ending, keeps in (("ing", 3), ("ed", 3), ("es", 3), ("ly", 4), ("s", 3)):
        if left.endswith(ending) and len(left) - len(ending) >= keeps and not left.endswith("ss"):
            left = left.removesuffix(ending)
            break
    if len(left) > 3 and left[-1] == left[-2] and left[-1] not in "ls":
        left = left[:-1]
    return left.removesuffix("e") if len(left) > 3 else left


def stems(said: str) -> list[str]:
    """Stems of a text, without articles and punctuation."""
    plain = re.sub(r"(?i)\b(\w+)'s\b", r"\1 is", said.lower())
    return [stem(word) for word in re.findall(r"[a-z0-9][\w.-]*", plain) if word not in ARTICLES]


def mended(words: Sequence[str], known: Iterable[str]) -> list[str]:
    """Correct stems that are similar to a known one: `happend` is `happen`."""
    ours = sorted({word for word in known if len(word) >= LEAST_LETTERS})
    every = set(known)
    return [
        word if word in every or len(word) < LEAST_LETTERS else (get_close_matches(word, ours, 1, ALIKE) or [word])[0]
        for word in words
    ]


def at(phrase: Sequence[str], words: Sequence[str]) -> frozenset[int]:
    """Positions of a phrase in a list of stems, with few words in between; empty if absent."""
    for start, word in enumerate(words):
        found = [start]
        for following in phrase[1:] if word == phrase[0] else ():
            near = [
                place for place in range(found[-1] + 1, found[-1] + 2 + GAP) if words[place : place + 1] == [following]
            ]
            found += near[:1]
        if word == phrase[0] and len(found) == len(phrase):
            return frozenset(found)
    return frozenset()


def nearest(word: str, ours: Iterable[str]) -> str:
    """The known word that a word is a typo of, or empty if none or several fit: `restrat` is `restart`."""
    # People rarely mistype the first letter: `ghost` is no host.
    near = get_close_matches(word, sorted(one for one in ours if {one[0], one[1:2]} & {word[0]}), n=4, cutoff=0.75)
    swapped = [one for one in near if sorted(one) == sorted(word)]
    close = [one for one in near if len(word) >= LEAST_LETTERS and SequenceMatcher(None, one, word).ratio() >= ALIKE]
    candidates = swapped or close
    return candidates[0] if candidates and len({meaning(one) for one in candidates}) == 1 else ""
