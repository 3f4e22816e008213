"""Which values of a call the words of a question contain, and which a model invented.

Small models invent filters and options in a plan; without them the tool uses its defaults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.lexicon import words_of_language
from anvyl_mcp.orchestrator.language.places import named
from anvyl_mcp.orchestrator.language.stemming import stem
from anvyl_mcp.orchestrator.language.vocabulary import EMPTY, NUMBERS, meanings
from anvyl_mcp.peers.connection.listing import ToolListing

TIME = re.compile(
    r"\b(?:since|ago|last|past|recent|recently|latest|lately|today|yesterday|(?:second|minute|hour|day|week)s?)\b"
    r"|\d\s*[smhd]\b",
    re.I,
)
ALSO_STOPPED = re.compile(
    r"\b(?:stopped|exited|dead|down|crash(?:ed|ing)?|created|failed|gone|missing|ever|exist|all|every|any|how many"
    r"|count|(?:not|isn't|aren't|wasn't) (?:up|on|running|started|alive|ok|healthy)|off|offline|still|not(?=\W*$))\b",
    re.I,
)
IMAGE = re.compile(
    r"(?<![\w/.-])[a-z0-9][\w.-]*(?:/[\w.-]+)*:\w[\w.-]*\w|(?<![\w/.-])[a-z0-9][\w.-]*(?:/[\w.-]+)+(?::[\w.-]*\w)?"
)
"""Image with a tag or path."""
NEAR = 0.8
"""Minimum similarity of a word and its typo."""
OPTION_WORDS: dict[str, str] = words_of_language("en")["options"]
MOST_WORDS_BETWEEN = 4
"""Between a value and the word for its option."""
BARE_OPTIONS = frozenset({"name", "command", "image"})
"""Options whose value can be given without a word for them: `run busybox sleep 99`."""
FORCE = "force"
"""Implied when the question names what to remove: it only says that a running container goes, too."""
NOT = re.compile(r"(?:n't|not|no|never|without)", re.IGNORECASE)


def images_in(said: str) -> list[str]:
    """Images in a text that have a tag or path."""
    return list(dict.fromkeys(IMAGE.findall(said)))


def near(one: str, other: str) -> bool:
    """Whether one word may be a typo of the other."""
    one, other = one.lower(), other.lower()
    if len(one) < 3 or re.sub(r"\D", "", one) != re.sub(r"\D", "", other):
        return False  # `web1` and `web2` are no typos of each other, nor of `web`
    return sorted(one) == sorted(other) or SequenceMatcher(None, one, other).ratio() >= NEAR


def words_of(said: str) -> list[str]:
    """Significant words of a text, in lower case."""
    return [word for word in re.findall(r"[a-z0-9][\w.:/@-]*\w|[a-z0-9]", said.lower()) if word not in EMPTY]


def ground_arguments(listing: ToolListing, arguments: Mapping[str, Any], said: str) -> dict[str, Any]:
    """Remove options that the text does not mention; required arguments and object names are kept."""
    kept: dict[str, Any] = {}
    for name, value in arguments.items():
        schema = listing.arguments.get(name)
        if schema is None or name in listing.required or name in listing.names:
            kept[name] = value
        elif isinstance(value, list):
            if entries := [entry for entry in value if _said(name, schema, entry, said, reads=listing.reads)]:
                kept[name] = entries
        elif _said(name, schema, value, said, reads=listing.reads):
            kept[name] = value
    if listing.reads and "all" in listing.arguments and ALSO_STOPPED.search(said):
        kept["all"] = True
    return kept


def _said(name: str, schema: Mapping[str, Any], value: Any, said: str, *, reads: bool) -> bool:
    """Whether a text mentions a value or its option."""
    if value == schema.get("default") or name == "all":
        return True
    if isinstance(value, bool):
        return _speaks_of(f"{name} {schema.get('description', '')}", said)
    if name == "since" or (isinstance(value, str) and text.parse_duration(value) is not None):
        return bool(TIME.search(said)) or (not reads and _speaks_of(name, said))
    contained = QuestionWords(said).contain_option(name, value, {})
    return contained or _speaks_of(str(value), said) or (not reads and _speaks_of(name, said))


def _speaks_of(words: str, said: str) -> bool:
    return bool((set(meanings(words)) - EMPTY - {"show", "value", "also", "name"}) & set(meanings(said)))


class QuestionWords:
    """The words of a question, to check which values of a call are in it."""

    def __init__(self, said: str) -> None:
        self._said = said
        self._words = _split(said)
        self._stems = [stem(word) for word in self._words]

    def contain_option(self, option: str, value: Any, schema: Mapping[str, Any], *, is_name: bool = False) -> bool:
        """Whether the words contain this value of an option. `is_name`: the value is the name of an object."""
        if value in (None, "", []) or value == schema.get("default"):
            return True
        if option == FORCE:
            return not self._positions(option) or self._mention(option)
        if isinstance(value, bool):
            return self._mention(option)
        if isinstance(value, list):
            return all(self.contain_option(option, entry, schema) for entry in value)
        if is_name:
            return named(self._said, str(value))
        if "enum" in schema:
            return {stem(word) for word in re.split(r"[\s_-]+", str(value))} <= set(self._stems)
        needs_option = "default" in schema and option not in BARE_OPTIONS
        published = str(value).rpartition(":")[0] if option == "ports" else ""
        if published and self._contain_value(published, option):
            # The port inside the container follows from the image; a person says the published one.
            return True
        return self._contain_value(str(value), option if needs_option else "")

    def _mention(self, option: str) -> bool:
        """Whether the words mention an option without a negation before it."""
        return any(
            not any(NOT.search(word) for word in self._words[max(0, position - 2) : position])
            for position in self._positions(option)
        )

    def _positions(self, option: str) -> list[int]:
        """Positions of the words for an option."""
        wanted = {stem(word) for word in (*OPTION_WORDS.get(option, "").split(), *option.split("_"))}
        return [position for position, word in enumerate(self._stems) if word in wanted]

    def _contain_value(self, value: str, option: str) -> bool:
        """Whether the words contain a value, or all its parts, near a word for its option."""
        forms = [value, value.removesuffix(":latest"), *(word for word, digits in NUMBERS.items() if digits == value)]
        if any(self._contain_near([form], option) for form in forms):
            return True
        parts = [part for part in re.split(r"[:=,]", value) if part]
        return len(parts) > 1 and self._contain_near(parts, option)

    def _contain_near(self, parts: Sequence[str], option: str) -> bool:
        return all(self._contain_literally(part) and (not option or self._is_near(part, option)) for part in parts)

    def _contain_literally(self, value: str) -> bool:
        spaced = r"\s+".join(re.escape(word) for word in value.split())
        return bool(spaced) and bool(re.search(rf"(?i)(?<![\w./:@=-]){spaced}(?![\w/@=-]|[.:]\w)", self._said))

    def _is_near(self, value: str, option: str) -> bool:
        first = _split(value)[:1]
        positions = [at for at, word in enumerate(self._words) if [word] == first or word.startswith(tuple(first))]
        return any(
            0 < abs(position - other) <= MOST_WORDS_BETWEEN
            for position in positions
            for other in self._positions(option)
        )


def _split(said: str) -> list[str]:
    return [word.rstrip(".:") or word for word in re.findall(r"[^\s,;?!\"'`()]+", said.lower())]
