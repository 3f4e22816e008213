"""The text of one order, the order as it is read for one tool, and what the orders of one text share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from anvyl_mcp.core.errors import AnvylError, Unreachable
from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.checks.resolve import FleetObject
from anvyl_mcp.orchestrator.language.places import Scope
from anvyl_mcp.orchestrator.rules.orders.scene import Scene
from anvyl_mcp.orchestrator.rules.orders.selection import Limits
from anvyl_mcp.orchestrator.rules.orders.words import Words
from anvyl_mcp.peers.connection.listing import ToolListing

Calls = list[dict[str, Any]]

IT = re.compile(r"(?i)\b(?:it|that|there|its)\b")
THEM = re.compile(r"(?i)\b(?:them|they|these|those|both|all)\b")
LITERALLY, IN_THESE_WORDS, NEARLY, BEFORE = 3.0, 2.0, 1.0, 0.5
"""Score of a match: by exact name, in these words, by similar name, or from earlier words."""


@dataclass
class Part:
    """Words of one order. `before`: words since the previous order; `after`: words of the next one."""

    verbs: frozenset[str]
    text: str
    before: str = ""
    after: str = ""


@dataclass
class Memory:
    """What the orders of one text share: what is left out or required, and what the orders so far were about."""

    scene: Scene
    quoted: Sequence[str]
    limits: Limits
    included: bool = False
    """Whether stopped containers are included in a change to all."""
    made: dict[str, str] = field(default_factory=dict)
    """Names of what was created, by kind."""
    last: list[str] = field(default_factory=list)
    so_far: list[str] = field(default_factory=list)
    places: str = ""
    """Hosts for all orders, named apart from them."""
    host: str = ""
    """Hosts of the order before."""
    means_all: bool = False


@dataclass
class Order:
    """One order as it is read for one tool: the calls, and how well its words fit."""

    listing: ToolListing
    part: Part
    words: Words
    memory: Memory
    scope: Scope = field(default_factory=Scope)
    calls: Calls = field(default_factory=list)
    weight: float = 0
    host: str = ""
    left: list[str] = field(default_factory=list)
    """Unread words."""
    unread: str = ""
    """The text with all others blanked out."""
    ignored: list[str] = field(default_factory=list)
    decided: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    """Conditions that were decided."""

    @property
    def scene(self) -> Scene:
        """What it is read against."""
        return self.memory.scene

    @property
    def verb(self) -> str:
        """`stop` for `stop_container`."""
        return self.listing.name.partition("_")[0]

    @property
    def hosts(self) -> list[str]:
        """The hosts that its words name; none if they name none."""
        return self.scene.select(self.scope.selector) if self.scope.selector else []

    def no_match(self, kind: str, wanted: str) -> AnvylError:
        """The error for an object that does not exist, or that only a host without an answer may have."""
        where, silent = self.hosts, self.scene.silent
        if where and (unasked := [host for host in where if host in silent]) == where:
            silence = silent[unasked[0]]
            hint = silence.hint or f"see what is wrong: anvyl hosts check {unasked[0]}"
            return Unreachable(f"{unasked[0]} could not be asked for {kind} `{wanted}` ({silence.message})", hint=hint)
        errors = {host: error for host, error in silent.items() if not where or host in where}
        known, hosts = self.scene.of(kind, where), self.scene.places.hosts
        return resolve.no_match_error(kind, wanted, known, errors, hosts=hosts, tool=self.listing.name)


def noun_of(listing: ToolListing) -> str:
    """`container` for `stop_container`."""
    return listing.name.rpartition("_")[2]


def where_they_are(found: Sequence[FleetObject], argument: str) -> Calls:
    """One call per name, on the hosts where it was found."""
    hosts: dict[str, list[str]] = {}
    for one in found:
        hosts.setdefault(one.name, []).append(one.host)
    return [{argument: name, "host": ",".join(dict.fromkeys(having))} for name, having in hosts.items()]
