"""Watch the fleet for problems, and raise one alert when a problem starts and one when it is over."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import EngineError
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome

TroubleKind = Literal["gone", "engine", "disk", "unhealthy", "restarting", "stopped"]
CONTAINER_KINDS: set[TroubleKind] = {"unhealthy", "restarting", "stopped"}

MACHINE, CONTAINERS, EVENTS = "get_host_resources", "list_containers", "list_events"
DIED, STOPPED, RESTARTED = ("die", "died"), ("stop", "kill"), "restart"
"""Event actions: a container exited, was stopped by a request, was restarted by a request."""
RUNNING = ("running", "restarting", "paused")
MARGIN = 2
"""Percent below the limit at which a full disk recovers, so that one near the limit does not alert repeatedly."""
REMEMBERED = 5
"""Number of recent checks that decide whether a container keeps restarting: two of them saw a restart."""
CALM = 3
"""Checks without a restart after which the problem is over."""
JUST_UP = re.compile(r"Up (?:Less than a second|(?P<seconds>\d+) seconds?)")


@dataclass(frozen=True, slots=True)
class Trouble:
    """One problem. `subject` is a container's name or a disk's mount point."""

    host: str
    kind: TroubleKind
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Alert:
    """A problem started, or is over. Unix times."""

    trouble: Trouble
    message: str
    began: float
    at: float
    over: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document; `text` is the field that chat webhooks show."""
        return {
            "event": "recovered" if self.over else "trouble",
            "host": self.trouble.host,
            "kind": self.trouble.kind,
            "subject": self.trouble.subject,
            "message": self.message,
            "since": text.format_timestamp(self.began),
            "at": text.format_timestamp(self.at),
            "text": f"{'✓' if self.over else '✗'} {self.message}",
        }


@dataclass(frozen=True, slots=True)
class ContainerExit:
    """The exit of a container, from the engine's events. `asked`: it was stopped by a request."""

    id: str
    name: str
    detail: str
    asked: bool

    @property
    def how(self) -> str:
        """` (exit code 3)`, or empty."""
        return f" ({self.detail})" if self.detail else ""


@dataclass(slots=True)
class _HostState:
    """What the watcher remembers of one host."""

    silent: int = 0
    looked: float = 0.0
    restarts: dict[str, deque[bool]] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    ended: set[tuple[str, str]] = field(default_factory=set)


class Watcher:
    """Checks hosts repeatedly and remembers their problems."""

    def __init__(self, fleet: Fleet, selector: str = "all", *, disk_percent: float = 90, patience: int = 2) -> None:
        """`patience`: failed checks in a row after which a host counts as gone.

        Raises:
            UnknownHost: the selector names an unknown host or tag.
        """
        fleet.select(selector)
        self._fleet = fleet
        self._selector = selector
        self._disk_percent = disk_percent
        self._patience = patience
        self._hosts: dict[str, _HostState] = {}
        self._known: dict[Trouble, float] = {}

    async def check(self) -> list[Alert]:
        """Check all hosts at once. Returns the alerts since the last check, new problems first."""
        hosts = self._fleet.select(self._selector)
        machines = await self._fleet.call_many(hosts, MACHINE, {})
        answering = [host for host in hosts if not machines[host].host_failed]
        lists = await self._fleet.call_many(answering, CONTAINERS, {"all": True, "limit": 1000})
        events = await self._events(answering)
        alerts: list[Alert] = []
        for host in hosts:
            ends = list(self._ends(host, events.get(host)))
            found = dict(self._problems(host, machines[host], lists.get(host), ends))
            alerts += self._changes(host, found, unchecked=self._unchecked_kinds(machines[host], lists.get(host)))
            alerts += self._recovered_exits(host, lists.get(host), ends)
        # Problems of hosts that left the fleet end without an alert.
        self._known = {one: began for one, began in self._known.items() if one.host in hosts}
        self._hosts = {host: self._hosts[host] for host in hosts}
        return sorted(alerts, key=lambda one: one.over)

    async def _events(self, hosts: Sequence[str]) -> Mapping[str, Outcome]:
        """Fetch each host's events since the last check, by the host's own clock; empty without the events tool."""
        now, seen = time.monotonic(), [host for host in hosts if host in self._hosts and self._hosts[host].looked]
        if not seen or EVENTS not in self._fleet.catalogue:
            return {}
        passed = max(now - self._hosts[host].looked for host in seen)
        return await self._fleet.call_many(seen, EVENTS, {"since": f"{int(passed) + 2}s", "limit": 1000})

    def _ends(self, host: str, happened: Outcome | None) -> Iterator[ContainerExit]:
        """Yield each exit since the last check once, except exits of a requested restart."""
        seen = self._hosts.get(host)
        rows = (happened.answer.result or {}).get("events", ()) if happened and happened.ok else ()
        if seen is None:
            return
        known, seen.ended = seen.ended, set()
        actions = {(row["id"], row["action"]) for row in rows}
        for row in rows:
            if row["type"] != "container" or row["action"] not in DIED:
                continue
            key = (row["id"], row["time"])
            seen.ended.add(key)
            if key not in known and (row["id"], RESTARTED) not in actions:
                how = str(row.get("detail") or "")
                yield ContainerExit(
                    row["id"], row["name"], how, asked=any((row["id"], one) in actions for one in STOPPED)
                )

    def _recovered_exits(self, host: str, listed: Outcome | None, ends: Sequence[ContainerExit]) -> Iterator[Alert]:
        """Yield alerts for containers that exited and run again, unless they keep restarting (another alert)."""
        now = time.time()
        rows = {row["id"]: row for row in _rows(listed)}
        for end in {one.id: one for one in ends}.values():
            row = rows.get(end.id)
            if row is None or row["state"] != "running" or Trouble(host, "restarting", row["name"]) in self._known:
                continue
            what = f"was stopped{end.how}" if end.asked else f"ended{end.how}"
            message = f"{row['name']} on {host} {what}, and runs again"
            yield Alert(Trouble(host, "stopped", row["name"]), message, now, now, over=True)

    def _problems(
        self, host: str, machine: Outcome, listed: Outcome | None, ends: Sequence[ContainerExit]
    ) -> Iterator[tuple[Trouble, str]]:
        """Yield the current problems of one host, with their messages."""
        seen = self._hosts.setdefault(host, _HostState())
        if machine.host_failed:
            seen.silent += 1
            gone = Trouble(host, "gone")
            if seen.silent >= self._patience or gone in self._known:
                yield gone, f"{host} is gone: {machine.status}"
            return
        seen.silent = 0
        yield from self._full_disks(host, machine)
        if listed is not None and listed.ok:
            yield from self._sick_containers(host, listed, seen)
            yield from self._stopped_containers(host, listed, seen, ends)
        elif listed is not None and isinstance(listed.error, EngineError):
            yield Trouble(host, "engine"), f"the Docker engine on {host} does not answer: {listed.error.message}"

    def _full_disks(self, host: str, machine: Outcome) -> Iterator[tuple[Trouble, str]]:
        for disk in (machine.answer.result or {}).get("disks", ()):
            trouble = Trouble(host, "disk", disk["mount"])
            limit = self._disk_percent - (MARGIN if trouble in self._known else 0)
            if disk["percent"] >= limit:
                free = text.format_size(disk.get("free", disk["total"] - disk["used"]))
                yield trouble, f"disk {disk['mount']} on {host} is {disk['percent']:.0f} % full, {free} free"

    def _sick_containers(self, host: str, listed: Outcome, seen: _HostState) -> Iterator[tuple[Trouble, str]]:
        rows = _rows(listed)
        now = time.monotonic()
        passed, seen.looked = now - seen.looked if seen.looked else 0.0, now
        known, seen.restarts = seen.restarts, {}
        for row in rows:
            looks = seen.restarts[row["id"]] = known.get(row["id"], deque(maxlen=REMEMBERED))
            looks.append(_restarted(row, passed if row["id"] in known else 0.0))
            name = row["name"]
            if row["health"] == "unhealthy":
                yield Trouble(host, "unhealthy", name), f"{name} on {host} is unhealthy"
            trouble = Trouble(host, "restarting", name)
            calm = not any(list(looks)[-CALM:])
            if sum(looks) >= min(2, self._patience) or (trouble in self._known and not calm):
                yield trouble, f"{name} on {host} keeps restarting"

    def _stopped_containers(
        self, host: str, listed: Outcome, seen: _HostState, ends: Sequence[ContainerExit]
    ) -> Iterator[tuple[Trouble, str]]:
        """Yield containers that stopped since the last check, unless Anvyl stopped them or they exited with code 0."""
        ran, seen.running = seen.running, {row["name"] for row in _rows(listed) if row["state"] in RUNNING}
        how = {end.id: end for end in ends}
        for row in _rows(listed):
            trouble, end = Trouble(host, "stopped", row["name"]), how.get(row["id"])
            if row["state"] in RUNNING or row.get("expected") == "stopped":
                continue
            finished = not (end and end.asked) and "(0)" in row["status"]
            if trouble in self._known or (row["name"] in ran and not finished):
                asked = " was stopped by a request outside Anvyl" if end and end.asked else " stopped"
                yield trouble, f"{row['name']} on {host}{asked}: {row.get('problem') or row['status']}"

    def _unchecked_kinds(self, machine: Outcome, listed: Outcome | None) -> set[TroubleKind]:
        """Return the kinds of problem that could not be checked, which therefore neither start nor end."""
        if machine.host_failed:
            return {"gone", "engine", "disk", *CONTAINER_KINDS}
        return set() if listed is not None and listed.ok else CONTAINER_KINDS

    def _changes(self, host: str, found: Mapping[Trouble, str], *, unchecked: set[TroubleKind]) -> Iterator[Alert]:
        """Yield alerts for problems that are new or over."""
        now = time.time()
        for trouble, message in found.items():
            if trouble not in self._known:
                self._known[trouble] = now
                yield Alert(trouble, message, now, now)
        for trouble in [one for one in self._known if one.host == host and one not in found]:
            if trouble.kind not in unchecked:
                began = self._known.pop(trouble)
                yield Alert(trouble, _recovery_message(trouble, now - began), began, now, over=True)


def _rows(listed: Outcome | None) -> Sequence[Mapping[str, Any]]:
    found = (listed.answer.result or {}).get("containers", ()) if listed is not None and listed.ok else ()
    return found if isinstance(found, list) else ()


def _restarted(row: Mapping[str, Any], passed: float) -> bool:
    """Whether a container is restarting, or restarted since it was seen `passed` seconds ago (0: never seen)."""
    if row["state"] == "restarting" or str(row.get("problem", "")).startswith("keeps restarting"):
        return True
    up = JUST_UP.match(row["status"])
    return up is not None and row["state"] == "running" and int(up["seconds"] or 0) + 1 < passed


def _recovery_message(trouble: Trouble, seconds: float) -> str:
    what = {
        "gone": f"{trouble.host} is back",
        "engine": f"the Docker engine on {trouble.host} answers again",
        "disk": f"disk {trouble.subject} on {trouble.host} has room again",
        "unhealthy": f"{trouble.subject} on {trouble.host} is no longer unhealthy",
        "restarting": f"{trouble.subject} on {trouble.host} no longer restarts",
        "stopped": f"{trouble.subject} on {trouble.host} is no longer stopped",
    }[trouble.kind]
    return f"{what}, after {text.format_duration(max(seconds, 1))}"
