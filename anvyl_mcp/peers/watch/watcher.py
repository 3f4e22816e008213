"""Watch the fleet for problems, and raise one alert when a problem starts and one when it is over."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import EngineError, UnknownHost
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.watch.container_exits import DIED, ContainerExit, exits_in, exits_in_history, unix_time
from anvyl_mcp.peers.watch.rule_checks import MARGIN, Exit, HostView, RuleChecks
from anvyl_mcp.peers.watch.rules import Rule
from anvyl_mcp.peers.watch.troubles import CONTAINER_KINDS, Alert, Found, Trouble, recovery_message

MACHINE, CONTAINERS, EVENTS, USAGE = "get_host_resources", "list_containers", "list_events", "get_container_stats"
HISTORY, USAGE_HISTORY = "list_history", "get_usage_history"
MOST_GAP_SECONDS = 86400.0
"""How far back the events of a time without a watch are read."""
FORECAST_SECONDS = 600.0
"""Time between two forecasts of a host's disks: they change slowly."""
RUNNING = ("running", "restarting", "paused")
REMEMBERED = 5
"""Number of recent checks that decide whether a container keeps restarting: two of them saw a restart."""
CALM = 3
"""Checks without a restart after which the problem is over."""
JUST_UP = re.compile(r"Up (?:Less than a second|(?P<seconds>\d+) seconds?)")


@dataclass(slots=True)
class _HostState:
    """What the watcher remembers of one host."""

    silent: int = 0
    looked: float = 0.0
    restarts: dict[str, deque[bool]] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    ended: set[tuple[str, str]] = field(default_factory=set)
    forecast_at: float = 0.0


class Watcher:
    """Checks hosts repeatedly and remembers their problems."""

    def __init__(
        self,
        fleet: Fleet,
        selector: str = "all",
        *,
        disk_percent: float = 90,
        patience: int = 2,
        rules: Sequence[Rule] = (),
    ) -> None:
        """`patience`: failed checks in a row after which a host counts as gone.

        Raises:
            UnknownHost: the selector, or that of a rule, names an unknown host or tag.
        """
        for one in (selector, *(rule.hosts for rule in rules)):
            fleet.select(one)
        self._fleet = fleet
        self._selector = selector
        self._disk_percent = disk_percent
        self._patience = patience
        self._rules = RuleChecks(rules, self._select)
        self._hosts: dict[str, _HostState] = {}
        self._known: dict[Trouble, float] = {}
        self._gap = 0.0

    @property
    def known(self) -> Mapping[Trouble, float]:
        """The problems that were reported and are not over, with the times at which they began."""
        return self._known

    def restore(self, known: Mapping[Trouble, float], gap: float) -> None:
        """Continue an earlier watch, whose last check was `gap` seconds ago.

        Its problems are not reported again, but their end is, and what happened since is read from the events.
        """
        self._known = dict(known)
        self._gap = min(gap, MOST_GAP_SECONDS)

    def _select(self, selector: str) -> Sequence[str]:
        try:
            return self._fleet.select(selector)
        except UnknownHost:
            return ()

    async def check(self) -> list[Alert]:
        """Check all hosts at once. Returns the alerts since the last check, new problems first."""
        hosts = self._fleet.select(self._selector)
        machines = await self._fleet.call_many(hosts, MACHINE, {})
        answering = [host for host in hosts if not machines[host].host_failed]
        lists = await self._fleet.call_many(answering, CONTAINERS, {"all": True, "limit": 1000})
        usage = await self._fleet.call_many([one for one in answering if self._rules.needs_usage(one)], USAGE, {})
        events = await self._events(answering)
        await self._read_history(answering)
        alerts: list[Alert] = []
        for host in hosts:
            first = not self._gap and (host not in self._hosts or not self._hosts[host].looked)
            ends = list(self._ends(host, events.get(host)))
            view = self._view(host, machines[host], usage.get(host), ends)
            found = list(self._problems(host, machines[host], lists.get(host), [] if first else ends))
            found = self._with_rules(view, found)
            alerts += self._changes(view, found, listed=lists.get(host))
            alerts += self._recovered_exits(host, lists.get(host), [] if first else ends)
        self._gap = 0.0 if len(answering) == len(hosts) else self._gap
        # Problems of hosts that left the fleet end without an alert.
        self._known = {one: began for one, began in self._known.items() if one.host in hosts}
        self._hosts = {host: self._hosts[host] for host in hosts}
        self._rules.forget_hosts(hosts)
        return sorted(alerts, key=lambda one: one.over)

    def _view(self, host: str, machine: Outcome, usage: Outcome | None, ends: Sequence[ContainerExit]) -> HostView:
        exits = [Exit(end.name, unix_time(end.time)) for end in ends if not end.asked]
        rows = (usage.answer.result or {}).get("containers") if usage is not None and usage.ok else None
        return HostView(host, None if machine.host_failed else machine.answer.result or {}, rows, exits)

    def _with_rules(self, view: HostView, found: Sequence[Found]) -> list[Found]:
        """Apply the rules to what was found, and add what they find themselves."""
        now = time.time()
        for disk in (view.machine or {}).get("disks", ()):
            self._rules.disks.add(view.host, str(disk["mount"]), float(disk["used"]), now)
        own = list(self._rules.check(view, self._known.__contains__, now))
        if self._rules.for_host(view.host, "disk"):
            found = [one for one in found if one.trouble.kind != "disk"]
        return [*self._rules.apply_states(view.host, found, now), *own]

    async def _events(self, hosts: Sequence[str]) -> Mapping[str, Outcome]:
        """Fetch each host's events since its last check, by its own clock; empty without the events tool."""
        if EVENTS not in self._fleet.catalogue:
            return {}
        now, found = time.monotonic(), dict[str, Outcome]()

        async def fetch(host: str) -> None:
            looked = self._hosts[host].looked if host in self._hosts else 0.0
            seconds = 0.0 if HISTORY in self._fleet.catalogue else self._rules.counted_seconds(host)
            passed = now - looked if looked else max(seconds, self._gap)
            if passed:
                arguments = {"since": f"{int(passed) + 2}s", "limit": 1000}
                found[host] = await self._fleet.call(host, EVENTS, arguments)

        async with anyio.create_task_group() as group:
            for host in hosts:
                group.start_soon(fetch, host)
        return found

    async def _read_history(self, hosts: Sequence[str]) -> None:
        """Ask hosts for what the rules need and a watch that just began has not seen."""
        now = time.time()

        async def read(host: str) -> None:
            state = self._hosts.setdefault(host, _HostState())
            seconds = self._rules.counted_seconds(host)
            if seconds and not state.looked and HISTORY in self._fleet.catalogue:
                arguments = {"since": f"{int(seconds) // 60 + 1}m", "kind": "deaths", "limit": 1000}
                found = await self._fleet.call(host, HISTORY, arguments)
                for name, at in exits_in_history((found.answer.result or {}).get("events", ())):
                    self._rules.add_exit(host, Exit(name, at))
            if (
                self._rules.for_host(host, "filling")
                and USAGE_HISTORY in self._fleet.catalogue
                and now - state.forecast_at >= FORECAST_SECONDS
            ):
                found = await self._fleet.call(host, USAGE_HISTORY, {})
                state.forecast_at = now
                for disk in (found.answer.result or {}).get("disks", ()):
                    if disk.get("growth_per_day") is not None:
                        days = disk.get("full_in_days")
                        self._rules.disks.forecast(host, str(disk["mount"]), None if days is None else days * 86400)

        async with anyio.create_task_group() as group:
            for host in hosts:
                group.start_soon(read, host)

    def _ends(self, host: str, happened: Outcome | None) -> Iterator[ContainerExit]:
        """Yield each exit since the last check once, except exits of a requested restart."""
        seen = self._hosts.setdefault(host, _HostState())
        rows = (happened.answer.result or {}).get("events", ()) if happened and happened.ok else ()
        known, seen.ended = seen.ended, {(row["id"], row["time"]) for row in rows if row["action"] in DIED}
        yield from (end for end in exits_in(rows) if (end.id, end.time) not in known)

    def _recovered_exits(self, host: str, listed: Outcome | None, ends: Sequence[ContainerExit]) -> Iterator[Alert]:
        """Yield alerts for containers that exited and run again, unless they keep restarting (another alert)."""
        now = time.time()
        rows = {row["id"]: row for row in _rows(listed)}
        for end in {one.id: one for one in ends}.values():
            row = rows.get(end.id)
            if row is None or row["state"] != "running" or self._is_looping(host, row["name"]):
                continue
            what = f"was stopped{end.how}" if end.asked else f"ended{end.how}"
            message = f"{row['name']} on {host} {what}, and runs again"
            yield Alert(Trouble(host, "stopped", row["name"]), message, now, now, over=True)

    def _is_looping(self, host: str, name: str) -> bool:
        """Whether it is reported already that a container exits again and again."""
        kinds = ("restarting", "restarted", "died")
        return any(one.host == host and one.subject == name and one.kind in kinds for one in self._known)

    def _problems(
        self, host: str, machine: Outcome, listed: Outcome | None, ends: Sequence[ContainerExit]
    ) -> Iterator[Found]:
        """Yield the current problems of one host."""
        seen = self._hosts.setdefault(host, _HostState())
        if machine.host_failed:
            seen.silent += 1
            gone = Trouble(host, "gone")
            if seen.silent >= self._patience or gone in self._known:
                yield Found(gone, f"{host} is gone: {machine.status}")
            return
        seen.silent = 0
        yield from self._full_disks(host, machine)
        if listed is not None and listed.ok:
            yield from self._sick_containers(host, listed, seen, ends)
            yield from self._stopped_containers(host, listed, seen, ends)
        elif listed is not None and isinstance(listed.error, EngineError):
            message = f"the Docker engine on {host} does not answer: {listed.error.message}"
            yield Found(Trouble(host, "engine"), message)

    def _full_disks(self, host: str, machine: Outcome) -> Iterator[Found]:
        for disk in (machine.answer.result or {}).get("disks", ()):
            trouble = Trouble(host, "disk", disk["mount"])
            limit = self._disk_percent - (MARGIN if trouble in self._known else 0)
            if disk["percent"] >= limit:
                free = text.format_size(disk.get("free", disk["total"] - disk["used"]))
                yield Found(trouble, f"disk {disk['mount']} on {host} is {disk['percent']:.0f} % full, {free} free")

    def _sick_containers(
        self, host: str, listed: Outcome, seen: _HostState, ends: Sequence[ContainerExit]
    ) -> Iterator[Found]:
        rows = _rows(listed)
        now = time.monotonic()
        passed, seen.looked = now - seen.looked if seen.looked else 0.0, now
        known, seen.restarts = seen.restarts, {}
        requested = {end.id for end in ends if end.asked}
        for row in rows:
            looks = seen.restarts[row["id"]] = known.get(row["id"], deque(maxlen=REMEMBERED))
            name = row["name"]
            # A container that somebody stopped and starts again does not restart by itself.
            by_itself = row["id"] in known and row["id"] not in requested and name in seen.running
            looks.append(_restarted(row, passed if by_itself else 0.0))
            if row["health"] == "unhealthy":
                yield Found(Trouble(host, "unhealthy", name), f"{name} on {host} is unhealthy")
            trouble = Trouble(host, "restarting", name)
            calm = not any(list(looks)[-CALM:])
            if sum(looks) >= min(2, self._patience) or (trouble in self._known and not calm):
                yield Found(trouble, f"{name} on {host} keeps restarting")

    def _stopped_containers(
        self, host: str, listed: Outcome, seen: _HostState, ends: Sequence[ContainerExit]
    ) -> Iterator[Found]:
        """Yield containers that stopped since the last check, unless Anvyl stopped them or they exited with code 0."""
        ran, seen.running = seen.running, {row["name"] for row in _rows(listed) if row["state"] in RUNNING}
        how = {end.id: end for end in ends}
        for row in _rows(listed):
            trouble, end = Trouble(host, "stopped", row["name"]), how.get(row["id"])
            if row["state"] in RUNNING or row.get("expected") == "stopped":
                continue
            finished = not (end and end.asked) and "(0)" in row["status"]
            # What ran before a gap is only known from its end.
            ended = row["name"] in ran or (self._gap and end is not None)
            if trouble in self._known or (ended and not finished):
                asked = " was stopped by a request outside Anvyl" if end and end.asked else " stopped"
                yield Found(trouble, f"{row['name']} on {host}{asked}: {row.get('problem') or row['status']}")

    def _changes(self, view: HostView, found: Iterable[Found], *, listed: Outcome | None) -> Iterator[Alert]:
        """Yield alerts for problems that are new or over."""
        now, current = time.time(), {one.trouble: one for one in found}
        for trouble, one in current.items():
            if trouble not in self._known:
                began = self._known[trouble] = one.began or now
                yield Alert(trouble, one.message, began, now, urgent=one.urgent)
        for trouble in [one for one in self._known if one.host == view.host and one not in current]:
            if _was_checked(trouble, view, listed):
                began = self._known.pop(trouble)
                yield Alert(trouble, recovery_message(trouble, now - began), began, now, over=True)


def _was_checked(trouble: Trouble, view: HostView, listed: Outcome | None) -> bool:
    """Whether a check could see that a problem is over."""
    if view.machine is None:
        return False
    if trouble.kind in CONTAINER_KINDS:
        return listed is not None and listed.ok
    return view.usage is not None if trouble.kind in ("memory", "cpu") and trouble.subject else True


def _rows(listed: Outcome | None) -> Sequence[Mapping[str, Any]]:
    found = (listed.answer.result or {}).get("containers", ()) if listed is not None and listed.ok else ()
    return found if isinstance(found, list) else ()


def _restarted(row: Mapping[str, Any], passed: float) -> bool:
    """Whether a container is restarting, or restarted since it was seen `passed` seconds ago (0: never seen)."""
    if row["state"] == "restarting" or str(row.get("problem", "")).startswith("keeps restarting"):
        return True
    up = JUST_UP.match(row["status"])
    return up is not None and row["state"] == "running" and int(up["seconds"] or 0) + 1 < passed
