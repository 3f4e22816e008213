"""Exits of containers, from the events of an engine and from the history that a host keeps."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

DIED, STOPPED, STARTED, RESTARTED = ("die", "died"), ("stop", "kill"), "start", "restart"
"""Event actions: a container exited, was stopped by a request, started, was restarted by a request."""


@dataclass(frozen=True, slots=True)
class ContainerExit:
    """The exit of a container, from the engine's events. `asked`: it was stopped by a request."""

    id: str
    name: str
    detail: str
    asked: bool
    time: str = ""

    @property
    def how(self) -> str:
        """` (exit code 3)`, or empty."""
        return f" ({self.detail})" if self.detail else ""


def exits_in(rows: Sequence[Mapping[str, Any]]) -> Iterator[ContainerExit]:
    """Yield each exit in events, oldest first, except exits of a requested restart.

    An engine reports `kill`, `die`, `stop` for a requested stop, and then `start`, `restart` for a restart.
    """
    by_container: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["type"] == "container":
            by_container[row["id"]].append(row)
    for events in by_container.values():
        actions = [str(row["action"]) for row in events]
        ends = [number for number, action in enumerate(actions) if action in DIED]
        for place, number in enumerate(ends):
            before = actions[ends[place - 1] + 1 if place else 0 : number]
            after = actions[number + 1 : ends[place + 1] if place + 1 < len(ends) else None]
            if RESTARTED in after:
                continue
            if STARTED in before:
                before = before[len(before) - before[::-1].index(STARTED) :]
            if STARTED in after:
                after = after[: after.index(STARTED)]
            row, asked = events[number], any(one in STOPPED for one in (*before, *after))
            yield ContainerExit(row["id"], row["name"], str(row.get("detail") or ""), asked, str(row["time"]))


def exits_in_history(entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """Yield name and Unix time of each unrequested exit, from `list_history`, which groups equal ones."""
    for entry in entries:
        if entry.get("who") or entry.get("exit_code") is None:
            continue
        last = unix_time(str(entry["time"]))
        first = unix_time(str(entry.get("first") or entry["time"]))
        times = max(int(entry.get("times", 1)), 1)
        step = (last - first) / (times - 1) if times > 1 else 0.0
        for number in range(times):
            yield str(entry["name"]), first + number * step if times > 1 else last


def unix_time(when: str) -> float:
    """Return an ISO 8601 time as Unix time; now if it cannot be parsed."""
    try:
        return datetime.fromisoformat(when).timestamp()
    except ValueError:
        return time.time()
