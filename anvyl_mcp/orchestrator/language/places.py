"""Hosts in a text: the one reader of places, for the rules, the checks and conversations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from anvyl_mcp.orchestrator.language.vocabulary import HOST, either, is_name, without_lead

EVERY = re.compile(r"\b(?:all|every|each|everywhere|everything|both|any|anywhere|whole|entire|across|fleet)\b", re.I)
HERE = re.compile(r"\b(?:(?<!in )here|local|locally|localhost|this (?:one|host|machine|server|computer|box))\b", re.I)
MACHINES = rf"(?:{HOST}|box(?:es)?|pcs?|nodes?)"
PLACED = (
    r"(?:\b(?:on|at|from|in|into|onto|across|of|for)\s+)?"
    r"(?:\b(?:the|my|our|this|that|all|both|every|each|two|three)\s+)*"
)
"""Prepositions before a host."""
HAVE_IT = (
    r"(?:(?:that|which|where)\s+(?:has|have|runs?|it\s+(?:runs|is|lives))(?:\s+(?:it|one|them))?)"
    r"|(?:where(?:ver)?\s+it\s+(?:runs|is|lives|exists))"
)
EVERY_HOST = re.compile(
    rf"(?i)\b(?:(?:on|at|across|from|in|to|for|of)\s+)?(?:all|every|each)(?:\s+(?:single\s+)?(?:one\s+)?of)?(?:\s+(?:the|my|our))?(?:\s+\w+)?\s+{MACHINES}\b"
    rf"(?:\s+(?P<having>{HAVE_IT}))?"
    rf"|\b(?:everywhere|wherever)(?:\s+(?P<runs>it\s+(?:runs|is|lives|exists)))?(?!\s+it\b)"
    rf"|\b(?:across|in|on)\s+(?:the\s+)?(?:whole\s+|entire\s+)?fleet\b"
)
BOTH_HOSTS = re.compile(
    rf"(?i)\b(?:on|at)\s+both(?:\s+of)?(?:\s+(?:the|my|our))?(?:\s+{MACHINES})?(?:\s+(?:{HAVE_IT}))?(?=\W*$|\s*,|\s+(?:and|then|please)\b)"
)
POSITIONS = tuple(
    re.compile(found, re.IGNORECASE)
    for found in (
        rf"^\W*on\s+(?:the\s+)?(?:{HOST}\s+)?(?!again\b)(?P<host>[a-z][\w-]*)",
        rf"\bon\s+(?:the\s+)?(?:{HOST}\s+)?(?!again\b)(?P<host>[a-z][\w-]*)"
        r"(?=\s*(?:$|[,.;:!?]|(?:and|then|please|again|now|too)\b))",
    )
)
"""Positions in a sentence where only a host name fits: its beginning, and the end of a clause."""


@dataclass(frozen=True)
class Scope:
    """The hosts that words name. `having`: all hosts that have the object, `both`: exactly two of them."""

    selector: str = ""
    having: bool = False
    both: bool = False


@dataclass(frozen=True)
class Places:
    """The hosts of a fleet and their tags, as words may name them."""

    hosts: tuple[str, ...]
    tags: frozenset[str] = frozenset()
    local: str = ""

    def hosts_named(self, said: str) -> list[str]:
        """Hosts, tags and `all` that a text names."""
        named_hosts = said_hosts(said, self.hosts) or [host for host in self.hosts if named(said, host)]
        here = [self.local] if HERE.search(said) and self.local else []
        every = ["all"] if EVERY.search(said) else []
        return list(dict.fromkeys([*named_hosts, *spoken_tags(said, self.tags), *here, *every]))

    def pattern(self) -> re.Pattern[str]:
        """Pattern for hosts and tags, with what leads to them."""
        tagged = rf"(?:@[\w.-]*\w|(?:{either(self.tags) or '(?!)'})\s+{MACHINES})(?![\w-])"
        hosts = rf"(?<![\w-])(?:{MACHINES}\s+)?(?:{either(self.hosts) or '(?!)'})(?:\s+{MACHINES})?(?![\w-]|[.:/=]\w)"
        one = rf"(?:{tagged}|{hosts})"
        return re.compile(rf"(?i){PLACED}{one}(?:\s*(?:,|&|\band\b|\bor\b|\bvs\.?)\s*(?:and\s+)?{PLACED}{one})*")

    def without(self, said: str) -> str:
        """The text without hosts and tags."""
        return self.pattern().sub(lambda match: " " * len(match[0]), said)

    def split_first(self, said: str) -> tuple[str, str]:
        """Split off leading hosts: `nas: list containers`, `on nas and gpu stop web`."""
        sentence = without_lead(said)
        begins = rf"(?i)(?P<on>(?:on|at|across)\s+)?(?P<hosts>{self._list})(?(on)[\s,:]+|\s*[,:]\s*)(?=\S)"
        match = re.match(begins, sentence)
        return (sentence[match.end() :], self._selector(match["hosts"])) if match else (said, "")

    def split_last(self, said: str) -> tuple[str, str]:
        """Split off hosts at the end: `docker ps on nas`."""
        match = re.search(rf"(?i)\s(?:on|at|across)\s+(?P<hosts>{self._list})\s*$", said)
        return (said[: match.start()], self._selector(match["hosts"])) if match else (said, "")

    def without_places(self, said: str) -> str:
        """The text without hosts as places: at its beginning, and `on nas`."""
        return re.sub(rf"(?i)(?<!\S)(?:on|at|across)\s+{self._list}", " ", self.split_first(said)[0])

    @property
    def _list(self) -> str:
        named_host = rf"(?:the\s+)?(?:{MACHINES}\s+)?(?:{either(self.hosts) or '(?!)'})(?:\s+{MACHINES})?(?![\w-]|\.\w)"
        one = rf"(?:@[\w.-]*\w|{named_host})"
        every = rf"(?:all|every|each)(?:\s+(?:the|my|our))?\s+{MACHINES}|this\s+{MACHINES}|local(?:host)?(?![\w-]|\.\w)"
        if len(self.hosts) == 1:
            every += r"|the\s+machine(?![\w-])"
        return rf"(?:{one}(?:\s*(?:,|&|\band\b)\s*(?:and\s+)?(?:on\s+)?{one})*|{every})"

    def _selector(self, said: str) -> str:
        named_places = self.hosts_named(said) or [self.local or "local"]
        return "all" if "all" in named_places else ",".join(named_places)

    def unknown_host(self, said: str) -> list[str]:
        """Words in the position of a host, like `on web3`, that name no host."""
        known = {*map(str.lower, self.hosts), *self.tags, "local", "localhost"}
        found = [match["host"].lower() for pattern in POSITIONS for match in pattern.finditer(said)]
        return [word for word in dict.fromkeys(found) if is_name(word) and word not in known]


def named(said: str, name: str) -> bool:
    """Whether a text contains the name as a word; `old test` matches `old-test`."""
    return bool((found := name_pattern(name)) and found.search(said))


def name_pattern(name: str) -> re.Pattern[str] | None:
    """Pattern for a name as a word; None for a name without letters."""
    parts = [re.escape(part) for part in re.split(r"[-_. ]+", name.strip()) if part]
    return re.compile(rf"(?<![\w/-]){'[-_. ]?'.join(parts)}(?![\w-]|[.:/]\w)", re.IGNORECASE) if parts else None


def said_hosts(said: str, hosts: Sequence[str]) -> list[str]:
    """Hosts that a text names as places: `on nas`, `nas and gpu:`, `the host nas`."""
    one = "|".join(re.escape(host) for host in sorted(hosts, key=len, reverse=True))
    if not one:
        return []
    joint = rf"(?:{one})(?:\s*(?:,|and|&|or|vs\.?|versus|with)\s*(?:{one}))*"
    before = r"\b(?:on|at|from|in|across|of|for|between|hosts?|machine|server|box)\s+(?:the\s+)?"
    place = rf"(?:{before}{joint}|^\s*{joint}\s*:)(?![\w-])"
    places = " ".join(match[0] for match in re.finditer(place, said, re.IGNORECASE))
    return [host for host in hosts if named(places, host)]


def spoken_tags(said: str, tags: Iterable[str]) -> list[str]:
    """Host tags mentioned in a text, as selectors: `the two web servers`, `@prod`."""
    known = sorted(set(tags))
    at_sign = re.findall(r"(?<!\w)@[\w.-]*\w", said.lower())
    pattern = rf"(?<![\w-])(?P<tag>{either(known) or '(?!)'})\s+(?:{MACHINES})(?![\w-])"
    in_words = [f"@{match['tag'].lower()}" for match in re.finditer(pattern, said, re.IGNORECASE)]
    return list(dict.fromkeys(at_sign + in_words))
