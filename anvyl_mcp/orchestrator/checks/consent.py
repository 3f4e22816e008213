"""How much of a person's consent a change needs, decided from the person's words and from nothing read elsewhere.

A yes that is given in advance (`--yes`, `"approve": true`) covers what the person asked for in words. Names, images and
figures that a model was shown were written by others: what is not in the question word for word was not asked for.
Arguments that are as good as root on a host are never covered, whoever proposes them; a tool that is, like a command on
the host, is covered only when rules read it from the words themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.grounding import EVERY, NUMBERS, named
from anvyl_mcp.orchestrator.language.stemming import stem
from anvyl_mcp.peers.connection.listing import ToolListing

Weigh = Callable[[str, Mapping[str, Any]], Sequence[str]]
"""Why a call, by its tool and arguments, is as good as root on the host that runs it; nothing for an ordinary one.

Without a tool's name, what of the arguments is.
"""


class Level(Enum):
    """What a call waits for."""

    FREE = "nothing: it only looks"
    ASK = "a yes, which may be given in advance"
    EXPLICIT = "a yes to exactly this call, from a person who sees why"


@dataclass(frozen=True)
class Consent:
    """What a call needs: `unsaid` is what the person's words do not say, `root` why it is as good as root."""

    level: Level
    unsaid: tuple[str, ...] = ()
    root: tuple[str, ...] = ()


WORDS_BETWEEN = 4
"""Words between a value and its option, at most."""
OPTION_WORDS: Mapping[str, str] = {
    "timeout": "timeout wait waiting within seconds second sec secs minutes minute give grace",
    "memory": "memory ram mem limit",
    "cpus": "cpus cpu cores core processors",
    "ports": "ports port publish published expose exposed",
    "env": "env environment variable variables set setting with",
    "volumes": "volumes volume mount mounted mounting",
    "labels": "labels label labelled labeled tagged",
    "network": "network net",
    "restart": "restart restarting policy",
    "force": "force forced forcibly",
    "replicas": "replicas replica copies instances times",
    "volumes_too": "volumes volume data",
}
"""How people speak of an option; of others by their name only."""
FREE_STANDING = frozenset({"name", "command", "image"})
"""Options that may be said without a word for them: `run busybox sleep 99`."""
NOT = re.compile(r"(?:n't|not|no|never|without)", re.IGNORECASE)


def needed(
    listing: ToolListing,
    arguments: Mapping[str, Any],
    hosts: Sequence[str],
    *,
    said: str,
    weigh: Weigh,
    selector: str,
    by_rules: bool,
) -> Consent:
    """The consent that a call needs.

    `selector` is what the model said of hosts, unless they are where the call goes anyway. `by_rules`: the call was
    made of the person's words by rules, so that they say it.
    """
    if listing.reads:
        return Consent(Level.FREE)
    if by_rules:
        # The words chose the tool; what its arguments open, a person still has to see.
        opened = tuple(weigh("", arguments))
        return Consent(Level.EXPLICIT if opened else Level.ASK, root=opened)
    words = Words(said)
    unsaid = [
        f"{name}={text.format_value(value)}"
        for name, value in arguments.items()
        if not words.say(name, value, listing.arguments.get(name, {}), names=name in listing.names)
    ]
    if selector and not words.name_hosts(selector, hosts):
        unsaid.append(f"host={','.join(hosts)}")
    root = tuple(weigh(listing.name, arguments)) or _by_scope(listing)
    return Consent(Level.EXPLICIT if unsaid or root else Level.ASK, tuple(unsaid), root)


def nothing_known(tool: str, arguments: Mapping[str, Any]) -> Sequence[str]:
    """Weighs calls where nothing is known of the hosts' own rules: the right that a tool needs still counts."""
    return ()


def _by_scope(listing: ToolListing) -> tuple[str, ...]:
    return ("needs the scope `exec`",) if listing.scope == "exec" else ()


class Words:
    """What a person said, as evidence of what was asked for."""

    def __init__(self, said: str) -> None:
        self._said = said
        self._words = _split(said)
        self._stems = [stem(word) for word in self._words]

    def name_hosts(self, selector: str, hosts: Sequence[str]) -> bool:
        """Whether the words name the selector that was given, or each of its hosts."""
        if selector in ("all", "*") and EVERY.search(self._said):
            return True
        if selector.startswith("@") and named(self._said, selector[1:]):
            return True
        return all(named(self._said, host) for host in hosts)

    def say(self, option: str, value: Any, schema: Mapping[str, Any], *, names: bool = False) -> bool:
        """Whether the words say this value of an option. `names`: it is the name of an object."""
        if value in (None, "", []) or value == schema.get("default"):
            return True
        if isinstance(value, bool):
            return self._speak_of(option)
        if isinstance(value, list):
            return all(self.say(option, entry, schema) for entry in value)
        if names:
            return named(self._said, str(value))
        if "enum" in schema:
            return {stem(word) for word in re.split(r"[\s_-]+", str(value))} <= set(self._stems)
        needs_option = "default" in schema and option not in FREE_STANDING
        return self._stands(str(value), option if needs_option else "")

    def _speak_of(self, option: str) -> bool:
        """Whether the words speak of an option, and not to deny it."""
        return any(not any(NOT.search(word) for word in _before(self._words, place)) for place in self._places(option))

    def _places(self, option: str) -> list[int]:
        """Where the words speak of an option."""
        wanted = {stem(word) for word in (*OPTION_WORDS.get(option, "").split(), *option.split("_"))}
        return [place for place, word in enumerate(self._stems) if word in wanted]

    def _stands(self, value: str, option: str) -> bool:
        """Whether a value stands in the words as it is, or in its parts, near a word for its option."""
        forms = [value, value.removesuffix(":latest"), *(word for word, digits in NUMBERS.items() if digits == value)]
        if any(self._stand_near([form], option) for form in forms):
            return True
        parts = [part for part in re.split(r"[:=,]", value) if part]
        return len(parts) > 1 and self._stand_near(parts, option)

    def _stand_near(self, parts: Sequence[str], option: str) -> bool:
        return all(self._stands_whole(part) and (not option or self._is_near(part, option)) for part in parts)

    def _stands_whole(self, value: str) -> bool:
        spaced = r"\s+".join(re.escape(word) for word in value.split())
        return bool(spaced) and bool(re.search(rf"(?i)(?<![\w./:@=-]){spaced}(?![\w/@=-]|[.:]\w)", self._said))

    def _is_near(self, value: str, option: str) -> bool:
        first = _split(value)[:1]
        at = [place for place, word in enumerate(self._words) if [word] == first or word.startswith(tuple(first))]
        return any(
            abs(place - other) <= WORDS_BETWEEN and place != other for place in at for other in self._places(option)
        )


def _split(said: str) -> list[str]:
    return [word.rstrip(".:") or word for word in re.findall(r"[^\s,;?!\"'`()]+", said.lower())]


def _before(words: Sequence[str], place: int) -> Iterable[str]:
    return words[max(0, place - 2) : place]
