"""Names seen lately, kept for completion: a key press must not wait for a host."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anvyl_mcp.core.files import write_atomically

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings
    from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
    from anvyl_mcp.peers.fleet.targets import Found

FILE = "names.json"
MOST_NAMES = 2000
"""Of one kind on one host."""


def note(settings: Settings, fleet: Fleet, found: Found, done: Iterable[Outcome] = ()) -> None:
    """Keep what a command has seen: the hosts, what was looked up on the way, and lists that it asked for itself."""
    # Reading must stay free of what a fleet imports.
    from anvyl_mcp.peers.fleet.targets import names_in

    file = settings.cache_dir / FILE
    before = read(file)
    peers = fleet.peers
    names: dict[str, dict[str, list[str]]] = {
        kind: {host: list(kept) for host, kept in hosts.items() if host in peers}
        for kind, hosts in before.get("names", {}).items()
    }
    for kind, outcomes in found.items():
        for host, outcome in outcomes.items():
            if outcome.ok:
                names.setdefault(kind, {})[host] = sorted(set(names_in(kind, outcome)))[:MOST_NAMES]
    for outcome in done:
        _note_call(names, fleet, outcome)
    now = {"hosts": {name: list(peer.tags) for name, peer in peers.items()}, "names": names}
    if now != before:
        with suppress(OSError):
            write_atomically(file, json.dumps(now), durable=False)


def _note_call(names: dict[str, dict[str, list[str]]], fleet: Fleet, outcome: Outcome) -> None:
    """A list adds its names, and forgets the others when it was a whole one; a removal forgets one."""
    from anvyl_mcp.peers.fleet.targets import LOOKUPS, names_in

    if not outcome.ok or not outcome.host:
        return
    if kind := next((kind for kind, lookup in LOOKUPS.items() if lookup.tool == outcome.tool), ""):
        given, whole = outcome.arguments, LOOKUPS[kind].arguments
        everything = all(given.get(key) == whole.get(key) for key in {*given, *whole} if given.get(key) or key in whole)
        kept = [] if everything else names.get(kind, {}).get(outcome.host, [])
        names.setdefault(kind, {})[outcome.host] = sorted({*kept, *names_in(kind, outcome)})[:MOST_NAMES]
    elif (outcome.answer.result or {}).get("removed") is True:
        for argument, kind in fleet.tool(outcome.tool).names.items():
            kept = names.get(kind, {}).get(outcome.host, [])
            if outcome.arguments.get(argument) in kept:
                kept.remove(outcome.arguments[argument])


def read(file: Path) -> dict[str, Any]:
    """What was kept; empty when there is nothing to read."""
    try:
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        names = kept["names"]
        whole = all(
            isinstance(hosts, dict) and all(isinstance(each, list) for each in hosts.values())
            for hosts in names.values()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return kept if whole and isinstance(kept.get("hosts"), dict) else {}
