"""Check the rules of a watch against what it saw of the hosts, now and before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.peers.watch.disk_trend import DiskSamples
from anvyl_mcp.peers.watch.rules import Rule
from anvyl_mcp.peers.watch.troubles import Found, Trouble, TroubleKind

MARGIN = 2
"""Percent below its limit at which a value recovers, so that one near the limit does not alert repeatedly."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Exit:
    """A container ended by itself, at a Unix time."""

    name: str
    at: float


@dataclass(frozen=True, slots=True)
class HostView:
    """What one check saw of a host. `machine` and `usage` are None if they could not be read."""

    host: str
    machine: Row | None
    usage: Sequence[Row] | None = None
    exits: Sequence[Exit] = ()


@dataclass(slots=True)
class RuleChecks:
    """The rules, and since when their conditions hold."""

    rules: Sequence[Rule]
    select: Callable[[str], Sequence[str]]
    """Returns the hosts of a selector; none if it is unknown."""
    disks: DiskSamples = field(default_factory=DiskSamples)
    _since: dict[tuple[Rule, str, str], float] = field(default_factory=dict)
    _exits: dict[tuple[str, str], deque[float]] = field(default_factory=dict)

    def for_host(self, host: str, *kinds: str) -> list[Rule]:
        """Return the rules of these kinds (all if none are given) for a host."""
        return [rule for rule in self.rules if (not kinds or rule.kind in kinds) and host in self.select(rule.hosts)]

    def needs_usage(self, host: str) -> bool:
        """Whether the figures of its containers are needed."""
        return any(not rule.is_about_machines for rule in self.for_host(host, "memory", "cpu"))

    def counted_seconds(self, host: str) -> float:
        """Return how far back exits are counted; 0 if they are not."""
        return max((rule.seconds for rule in self.for_host(host, "restarted", "died")), default=0.0)

    def apply_states(self, host: str, found: Sequence[Found], now: float) -> list[Found]:
        """Replace problems that rules are about: such a problem is reported when it has lasted long enough."""
        kept: list[Found] = []
        holding: set[tuple[Rule, str, str]] = set()
        for one in found:
            rules = [rule for rule in self.for_host(host, one.trouble.kind) if self._covers(rule, one.trouble)]
            kept += [] if rules else [one]
            for rule in rules:
                key = (rule, host, one.trouble.subject)
                holding.add(key)
                lasted = now - self._since.setdefault(key, now)
                if lasted >= rule.seconds:
                    trouble = Trouble(host, one.trouble.kind, one.trouble.subject, rule.when)
                    kept.append(Found(trouble, f"{one.message}{_lasting(rule)}", rule.urgent, self._since[key]))
        states = ("unhealthy", "stopped", "restarting", "gone", "engine")
        for key in [one for one in self._since if one[1] == host and one[0].kind in states and one not in holding]:
            del self._since[key]
        return kept

    def check(self, view: HostView, known: Callable[[Trouble], bool], now: float) -> Iterator[Found]:
        """Yield what the other rules find. `known`: whether a problem was found before and is not over."""
        for end in view.exits:
            self.add_exit(view.host, end)
        for rule in self.for_host(view.host):
            if rule.kind in ("restarted", "died"):
                yield from self._counted(rule, view.host, known, now)
            elif rule.kind in ("memory", "cpu", "disk"):
                yield from self._levels(rule, view, known, now)
            elif rule.kind == "filling" and view.machine is not None:
                yield from self._filling(rule, view.host, view.machine, now)

    def add_exit(self, host: str, end: Exit) -> None:
        """Count an exit."""
        self._exits.setdefault((host, end.name), deque(maxlen=1000)).append(end.at)

    def forget_hosts(self, hosts: Sequence[str]) -> None:
        """Forget all hosts but these."""
        self._since = {key: at for key, at in self._since.items() if key[1] in hosts}
        self._exits = {key: ends for key, ends in self._exits.items() if key[0] in hosts}

    def _covers(self, rule: Rule, trouble: Trouble) -> bool:
        return rule.is_about_machines or rule.covers_name(trouble.subject)

    def _counted(self, rule: Rule, host: str, known: Callable[[Trouble], bool], now: float) -> Iterator[Found]:
        for (where, name), ends in self._exits.items():
            if where != host or not rule.covers_name(name):
                continue
            times = sum(1 for at in ends if at > now - rule.seconds)
            kind: TroubleKind = "restarted" if rule.kind == "restarted" else "died"
            trouble = Trouble(host, kind, name, rule.when)
            # It is over when it happens half as often, so that one near the limit does not alert repeatedly.
            if times >= rule.times or (known(trouble) and times > rule.times // 2):
                often = text.plural(times, "time")
                yield Found(trouble, f"{name} on {host} {kind} {often} in {_words(rule.seconds)}", rule.urgent)

    def _levels(self, rule: Rule, view: HostView, known: Callable[[Trouble], bool], now: float) -> Iterator[Found]:
        seen = set()
        for subject, value, shown in _values(rule, view):
            kind: TroubleKind = "disk" if rule.kind == "disk" else "cpu" if rule.kind == "cpu" else "memory"
            trouble = Trouble(view.host, kind, subject, rule.when)
            key = (rule, view.host, subject)
            limit = rule.limit * (1 - MARGIN / 100) if known(trouble) or key in self._since else rule.limit
            if value < limit:
                continue
            seen.add(key)
            if now - self._since.setdefault(key, now) >= rule.seconds:
                yield Found(trouble, f"{shown}{_lasting(rule)}", rule.urgent, self._since[key])
        if view.machine is not None if rule.is_about_machines else view.usage is not None:
            for key in [one for one in self._since if one[0] == rule and one[1] == view.host and one not in seen]:
                del self._since[key]

    def _filling(self, rule: Rule, host: str, machine: Row, now: float) -> Iterator[Found]:
        for disk in machine.get("disks", ()):
            mount, free = str(disk["mount"]), float(disk.get("free", disk["total"] - disk["used"]))
            left = self.disks.seconds_left(host, mount, free, now)
            if left is not None and left <= rule.seconds:
                when = f"in about {text.format_duration(max(left, 3600))}"
                rest = f"{disk['percent']:.0f} % used, {text.format_size(free)} free"
                message = f"disk {mount} on {host} will be full {when} if it fills as before ({rest})"
                yield Found(Trouble(host, "filling", mount, rule.when), message, rule.urgent)


def _values(rule: Rule, view: HostView) -> Iterator[tuple[str, float, str]]:
    """Yield subject, value and sentence of each thing that a rule about a level is about."""
    host, machine = view.host, view.machine
    if not rule.is_about_machines:
        for row in view.usage or ():
            name = str(row["name"])
            if not rule.covers_name(name):
                continue
            if rule.kind == "cpu":
                yield name, float(row["cpu_percent"]), f"{name} on {host} uses {row['cpu_percent']:.0f} % CPU"
            elif rule.in_bytes:
                used = float(row["memory_used"])
                yield name, used, f"{name} on {host} uses {text.format_size(used)} of memory"
            elif row.get("memory_limit"):
                percent = 100 * float(row["memory_used"]) / float(row["memory_limit"])
                yield name, percent, f"{name} on {host} uses {percent:.0f} % of its memory"
    elif machine is not None and rule.kind == "disk":
        for disk in machine.get("disks", ()):
            mount, percent = str(disk["mount"]), float(disk["percent"])
            free = text.format_size(disk.get("free", disk["total"] - disk["used"]))
            yield mount, percent, f"disk {mount} on {host} is {percent:.0f} % full, {free} free"
    elif machine is not None and rule.kind == "cpu" and machine.get("cpu_percent") is not None:
        yield "", float(machine["cpu_percent"]), f"{host} uses {machine['cpu_percent']:.0f} % of its CPU"
    elif machine is not None and rule.kind == "memory" and machine.get("memory"):
        memory = machine["memory"]
        value = float(memory["used"] if rule.in_bytes else memory["percent"])
        yield "", value, f"{host} uses {memory['percent']:.0f} % of its memory"


def _lasting(rule: Rule) -> str:
    return f", for more than {text.format_duration(rule.seconds)}" if rule.seconds else ""


def _words(seconds: float) -> str:
    return "an hour" if seconds == 3600 else "a day" if seconds == 86400 else text.format_duration(seconds)
