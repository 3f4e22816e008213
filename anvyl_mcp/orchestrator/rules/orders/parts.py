"""The text of one order, the tool that it was read for, and what the orders of one text share."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from anvyl_mcp.core.errors import NothingToDo
from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.checks.resolve import FleetObject
from anvyl_mcp.orchestrator.language.vocabulary import (
    NAME,
)
from anvyl_mcp.orchestrator.rules.orders.scene import Scene
from anvyl_mcp.orchestrator.rules.orders.selection import Limits
from anvyl_mcp.peers.connection.listing import ToolListing

CALLED = re.compile(
    rf"(?i)\b(?:called|named|(?:name|call)\s+(?:it|that|this)|by\s+the\s+name(?:\s+of)?|as)\s+(?:as\s+)?(?P<name>{NAME})"
)
IT = re.compile(r"(?i)\b(?:it|that|there|its)\b")
THEM = re.compile(r"(?i)\b(?:them|they|these|those|both|all)\b")
LITERALLY, IN_THESE_WORDS, NEARLY, BEFORE = 3.0, 2.0, 1.0, 0.5
"""Score of a match: by exact name, in these words, by similar name, or from earlier words."""
IMAGE_VERBS = frozenset({"run", "pull"})
POWER = frozenset({"start", "stop", "restart"})


@dataclass
class Part:
    """Words of one order. `before`: words since the previous order; `after`: words of the next one."""

    verbs: frozenset[str]
    text: str
    before: str = ""
    after: str = ""


@dataclass
class Frame:
    """One order read for one tool. `left`: unread words; `unread`: the text with all others blanked out."""

    listing: ToolListing
    calls: list[dict[str, Any]]
    weight: float
    left: list[str] = field(default_factory=list)
    unread: str = ""
    ignored: list[str] = field(default_factory=list)
    host: str = ""


class Shared:
    """What all readers of one text know: the scene, what is left out or required, and the orders so far."""

    def __init__(self, scene: Scene, quoted: Sequence[str], limits: Limits, *, included: bool) -> None:
        self._scene = scene
        self._quoted = quoted
        self._limits = limits
        self._included = included
        self._made: dict[str, str] = {}
        self._last: list[str] = []
        self._so_far: list[str] = []
        self._places = ""
        self._host = ""
        self.means_all = False


def noun_of(listing: ToolListing) -> str:
    """`container` for `stop_container`."""
    return listing.name.rpartition("_")[2]


def state_of(one: FleetObject, wanted: Set[str] = frozenset()) -> str:
    """State of an object: its state or health that is wanted, else its state."""
    if held := sorted(wanted & resolve.states_of(one)):
        return " and ".join(held)
    return str(one.row.get("state") or "there")


def nothing_left(listing: ToolListing, names: Sequence[str], what: str, objects: Sequence[FleetObject]) -> NothingToDo:
    """No named object is as it must be."""
    now = sorted({f"{one.name} is {state_of(one)} on {one.host}" for one in objects if one.name in names})
    return NothingToDo(f"Nothing to {listing.name.partition('_')[0]} ({what}): {' and '.join(now)}")


def where_they_are(found: Sequence[FleetObject], argument: str) -> list[dict[str, Any]]:
    """One call per name, on the hosts where it was found."""
    by_name: dict[str, list[str]] = {}
    for one in found:
        by_name.setdefault(one.name, []).append(one.host)
    return [{argument: name, "host": ",".join(dict.fromkeys(hosts))} for name, hosts in by_name.items()]
