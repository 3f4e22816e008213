"""Decides which consent a change needs, from the words of the question alone.

Approval in advance (`--yes`, `"approve": true`) covers what the question asks for. Objects have to be in the question
literally. So do options, once a model has read something: names, images and numbers may then come from an attacker.
Before that they are the model's own, and only those that reach other objects or the network have to be said. Arguments
that give root on a host are never covered; a tool that gives root, like a command on the host, is covered only if the
rules parsed it from the question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.places import EVERY, named
from anvyl_mcp.orchestrator.language.stemming import stem
from anvyl_mcp.orchestrator.language.vocabulary import NUMBERS
from anvyl_mcp.peers.connection.listing import ToolListing

RootReasons = Callable[[str, Mapping[str, Any]], Sequence[str]]
"""Returns the reasons why a call, by its tool and arguments, gives root on its host; none for an ordinary call.

With an empty tool name, only the arguments are checked.
"""


class ConsentLevel(Enum):
    """Approval that a call needs."""

    NONE = "none: it only reads"
    ASK = "approval, possibly in advance"
    EXPLICIT = "approval of exactly this call, with its risks shown"


@dataclass(frozen=True)
class RequiredConsent:
    """Consent that a call needs. `unsaid`: arguments that are not in the question; `root`: why it gives root."""

    level: ConsentLevel
    unsaid: tuple[str, ...] = ()
    root: tuple[str, ...] = ()


MOST_WORDS_BETWEEN = 4
"""Between a value and the word for its option."""
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
"""Words for an option, besides its name."""
BARE_OPTIONS = frozenset({"name", "command", "image"})
"""Options whose value can be given without a word for them: `run busybox sleep 99`."""
REACHING_OPTIONS = frozenset(
    {"image", "command", "network", "ports", "volumes", "compose", "dotenv", "version", "min_age", "watch"}
)
"""Options that reach other objects or the network, or lift a protection: the question always has to contain them."""
STACK_FILE = "compose"
FILES = frozenset({STACK_FILE, "dotenv"})
"""Arguments that are too long to be shown in a reason; what deploying them does is shown with the change."""
FORCE = "force"
"""Implied when the question names what to remove: it only says that a running container goes, too."""
NOT = re.compile(r"(?:n't|not|no|never|without)", re.IGNORECASE)


def required_consent(
    listing: ToolListing,
    arguments: Mapping[str, Any],
    hosts: Sequence[str],
    *,
    said: str,
    root_reasons: RootReasons,
    selector: str,
    by_rules: bool,
    nothing_read: bool = False,
) -> RequiredConsent:
    """The consent that a call needs, for a question with the text `said`.

    `selector`: the hosts that the model chose, if they are not the default. `by_rules`: the rules made the call from
    the question, so all arguments are in it. `nothing_read`: the model has seen nothing of the hosts, so its options
    are its own.
    """
    if listing.reads:
        return RequiredConsent(ConsentLevel.NONE)
    if by_rules:
        # The question names the tool, but the user still has to see what its arguments allow.
        root = tuple(root_reasons("", arguments))
        return RequiredConsent(ConsentLevel.EXPLICIT if root else ConsentLevel.ASK, root=root)
    words = QuestionWords(said)
    unsaid = [
        name if name in FILES else f"{name}={text.format_value(value)}"
        for name, value in arguments.items()
        if not (nothing_read and _is_own_option(listing, name))
        and (
            (name in ("command", "image") and value in hosts)  # said, but as a host
            or not words.contain_option(name, value, listing.arguments.get(name, {}), is_name=name in listing.names)
        )
    ]
    if selector and not words.contain_hosts(selector, hosts):
        unsaid.append(f"host={','.join(hosts)}")
    root = tuple(root_reasons(listing.name, arguments)) or _by_scope(listing) or _by_file(arguments)
    level = ConsentLevel.EXPLICIT if unsaid or root else ConsentLevel.ASK
    return RequiredConsent(level, tuple(unsaid), root)


def no_root_reasons(tool: str, arguments: Mapping[str, Any]) -> Sequence[str]:
    """Default `RootReasons`: none. Tools with the scope `exec` still need explicit consent."""
    return ()


def _is_own_option(listing: ToolListing, name: str) -> bool:
    """Whether an argument only says how a change is made, or what a new object is called."""
    return name not in {*listing.required, *listing.names, *REACHING_OPTIONS, FORCE}


def _by_file(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    return ("deploys a stack file, which may ask for anything",) if arguments.get(STACK_FILE) else ()


def _by_scope(listing: ToolListing) -> tuple[str, ...]:
    return ("needs the scope `exec`",) if listing.scope == "exec" else ()


class QuestionWords:
    """The words of a question, to check which values of a call are in it."""

    def __init__(self, said: str) -> None:
        self._said = said
        self._words = _split(said)
        self._stems = [stem(word) for word in self._words]

    def contain_hosts(self, selector: str, hosts: Sequence[str]) -> bool:
        """Whether the words name the selector, or each of its hosts."""
        if selector in ("all", "*") and EVERY.search(self._said):
            return True
        if selector.startswith("@") and named(self._said, selector[1:]):
            return True
        return all(named(self._said, host) for host in hosts)

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
