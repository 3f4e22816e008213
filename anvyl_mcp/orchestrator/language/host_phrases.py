"""Extract the hosts that a clause names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from anvyl_mcp.orchestrator.language.normalize import polite
from anvyl_mcp.orchestrator.language.vocabulary import AND, HOST, NAME, either, is_name

HAVING, BOTH = "having:", "both:"
"""Selectors for all hosts that have the named object, or exactly two."""


@dataclass(frozen=True)
class Way:
    """One way to parse a clause: prepositions before hosts, and what else is allowed."""

    hosts_after: str = "on|at|across"
    alone: bool = False
    reads_only: bool = False
    hosts_are_names: bool = False
    host_is_unknown: bool = False


ASKING = Way("on|at|across|of|from|for|in|about", alone=True, reads_only=True)
PLAIN = (Way(), Way(ASKING.hosts_after), ASKING)
BOLD = (Way(hosts_are_names=True), Way(host_is_unknown=True))


@lru_cache(maxsize=64)
def _hosts(known: tuple[str, ...], *, also_or: bool) -> str:
    names, tags = [one for one in known if one[0] != "@"], [one[1:] for one in known if one[0] == "@"]
    tags = [tag for tag in tags if tag not in names]
    one = rf"(?:@[\w.-]*\w|(?:{either(names) or '(?!)'})(?![\w.-]*\w))"
    tagged = rf"(?:(?:all|every|each|both|the|my|our)\s+)*(?P<tagged>{either(tags) or '(?!)'})\s+{HOST}\b"
    it = r"(?:(?:that|which)\s+(?:has|have|runs?)\s+(?:it|one|them)|where\s+it\s+(?:runs|is|lives))"
    having = rf"(?:(?:all|every|each|the)\s+(?:of\s+)?(?:the\s+)?{HOST}\s+{it})"
    having = rf"(?P<having>{having})\b|(?P<both>both)\b(?:\s+(?:of\s+)?(?:the\s+)?{HOST}\b)?(?:\s+{it})?"
    joint = rf"(?:\s*,\s*(?:and\s+)?|\s*&\s*|\s+(?:and{'|or' if also_or else ''})\s+(?:(?:on|at)\s+)?)"
    every = rf"(?:all|every|each)(?:\s+of)?(?:\s+(?:the|my|our))?\s+{HOST}|all$|the\s+(?:(?:whole|entire)\s+)?fleet"
    # Of several, `the host` names none.
    here = rf"{'(?:this|the)' if len(names) == 1 else 'this'}\s+{HOST}|localhost|local"
    named = rf"(?:the\s+)?(?:{HOST}\s+)?(?P<named>{one}(?:{joint}{one})*)(?:\s+{HOST}\b)?"
    return (
        rf"(?:{tagged}|{having}|{named}|{'(?(after)|(?!))' if also_or else ''}(?P<every>{every})\b|(?P<here>{here})\b)"
    )


@lru_cache(maxsize=64)
def _hosts_in(way: Way, known: tuple[str, ...], *, at_end: bool) -> re.Pattern[str]:
    before = rf"(?P<after>(?:{way.hosts_after})\s+){'?' if way.alone else ''}"
    adverbs = r"(?P<wherever>(?:wherever|everywhere)\s+it\s+(?:runs|is|lives))|(?P<everywhere>everywhere)" + (
        "" if at_end else r"|(?P<locally>here|locally)"
    )
    # What `and` joins to a host may be a container or another command: such a clause is not this one.
    end = "$" if at_end else r"(?!\s*(?:,|&|\b(?:and|or|but|except)\b))"
    hosts = _hosts(known, also_or=way.alone)
    return re.compile(rf"(?<!\S)(?:{before}{hosts}|(?:{adverbs})\b){end}", re.IGNORECASE)


@lru_cache(maxsize=64)
def _hosts_first(known: tuple[str, ...]) -> re.Pattern[str]:
    hosts = _hosts(known, also_or=False)
    return re.compile(rf"(?i)(?P<on>(?:{Way().hosts_after})\s+)?{hosts}(?(on)[\s,:]+|\s*[,:]\s*)(?=\S)")


def _selector(match: re.Match[str], known: Sequence[str]) -> str:
    groups = match.groupdict()
    if groups.get("tagged"):
        return f"@{groups['tagged'].lower()}"
    if groups.get("having") or groups.get("wherever") or groups.get("both"):
        return BOTH if groups.get("both") else HAVING
    if not groups["named"]:
        return "all" if groups["every"] or groups.get("everywhere") else "local"
    spelled = {name.lower(): name for name in known}
    return ",".join(
        spelled.get(name, name) for name in re.split(rf"(?:{AND}|\s+or\s+)(?:(?:on|at)\s+)?", groups["named"].lower())
    )


@lru_cache(maxsize=256)
def take_hosts(clause: str, way: Way, known: tuple[str, ...], *, at_end: bool = False) -> tuple[str, str] | None:
    """Clause without its hosts, and their selector, empty if none is named; None if ambiguous."""
    if way.host_is_unknown:
        match = re.fullmatch(rf"(.+)\s(?:on|at)\s+(?:(?:the\s+)?{HOST}\s+)?({NAME})", clause, re.IGNORECASE)
        return (match[1], match[2]) if match and is_name(match[2]) and not at_end else None
    found = list(_hosts_in(way, known, at_end=at_end).finditer(clause))
    if len(found) != 1:
        return None if found else (clause, "")
    before, after = clause[: found[0].start()].rstrip(), clause[found[0].end() :].lstrip()
    return f"{before} {after}".strip(), _selector(found[0], known)


def take_first_hosts(sentence: str, known: tuple[str, ...]) -> tuple[str, str]:
    """Split off leading hosts: `nas: list containers`, `on nas and gpu stop web`."""
    match = _hosts_first(known).match(sentence, len(polite(sentence)))
    return (sentence[match.end() :], _selector(match, known)) if match else (sentence, "")
