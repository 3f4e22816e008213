"""Cache of names seen recently, so that completion need not wait for a host."""

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
    from anvyl_mcp.peers.fleet.targets import ListedObjects

FILE = "names.json"
MOST_NAMES = 2000
"""Per kind and host."""


def update(settings: Settings, fleet: Fleet, found: ListedObjects, done: Iterable[Outcome] = ()) -> None:
    """Update the cache from a command: the hosts, the lookups it made and the lists it requested."""
    # Completion reads this module and must not import the fleet.
    from anvyl_mcp.peers.fleet.targets import names_in

    file = settings.cache_dir / FILE
    before = read(file)
    peers = fleet.peers
    names: dict[str, dict[str, list[str]]] = {
        kind: {host: list(cached) for host, cached in hosts.items() if host in peers}
        for kind, hosts in before.get("names", {}).items()
    }
    for kind, outcomes in found.items():
        for host, outcome in outcomes.items():
            if outcome.ok:
                names.setdefault(kind, {})[host] = sorted(set(names_in(kind, outcome)))[:MOST_NAMES]
    for outcome in done:
        _update_from_call(names, fleet, outcome)
    now = {"hosts": {name: list(peer.tags) for name, peer in peers.items()}, "names": names}
    if now != before:
        with suppress(OSError):
            write_atomically(file, json.dumps(now), durable=False)


def _update_from_call(names: dict[str, dict[str, list[str]]], fleet: Fleet, outcome: Outcome) -> None:
    """Update the names from one call: a complete list replaces them, a partial one adds, a removal deletes."""
    from anvyl_mcp.peers.fleet.targets import LOOKUPS, names_in

    if not outcome.ok or not outcome.host:
        return
    if kind := next((kind for kind, lookup in LOOKUPS.items() if lookup.tool == outcome.tool), ""):
        arguments, full = outcome.arguments, LOOKUPS[kind].arguments
        complete = all(
            arguments.get(key) == full.get(key) for key in {*arguments, *full} if arguments.get(key) or key in full
        )
        known = [] if complete else names.get(kind, {}).get(outcome.host, [])
        names.setdefault(kind, {})[outcome.host] = sorted({*known, *names_in(kind, outcome)})[:MOST_NAMES]
    elif (outcome.answer.result or {}).get("removed") is True:
        for argument, kind in fleet.tool(outcome.tool).names.items():
            known = names.get(kind, {}).get(outcome.host, [])
            if outcome.arguments.get(argument) in known:
                known.remove(outcome.arguments[argument])


def read(file: Path) -> dict[str, Any]:
    """Read the cache; empty if missing or malformed."""
    try:
        cached: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        names = cached["names"]
        valid = all(
            isinstance(hosts, dict) and all(isinstance(each, list) for each in hosts.values())
            for hosts in names.values()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return cached if valid and isinstance(cached.get("hosts"), dict) else {}
