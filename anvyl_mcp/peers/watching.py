"""What is wrong in the fleet, told once when it begins and once when it is over."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from anvyl_mcp import text
from anvyl_mcp.errors import EngineError
from anvyl_mcp.peers.fleet import Fleet, Outcome

Kind = Literal["gone", "engine", "disk", "unhealthy", "restarting"]

MACHINE, CONTAINERS = "get_host_resources", "list_containers"
MARGIN = 2
"""Percent that a disk must be below the limit to be well again: one that hovers is not told of every minute."""
REMEMBERED = 5
"""Looks at a container that count for whether it restarts again and again; two of them with a restart do."""
CALM = 3
"""Looks without a restart after which it does not."""
JUST_UP = re.compile(r"Up (?:Less than a second|(?P<seconds>\d+) seconds?)")


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong. `subject` is a container's name or a disk's mount point."""

    host: str
    kind: Kind
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something began to be wrong, or is over. Times are seconds since 1970."""

    trouble: Trouble
    message: str
    began: float
    at: float
    over: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `text` is what chat webhooks show."""
        return {
            "event": "recovered" if self.over else "trouble",
            "host": self.trouble.host,
            "kind": self.trouble.kind,
            "subject": self.trouble.subject,
            "message": self.message,
            "since": text.instant(self.began),
            "at": text.instant(self.at),
            "text": f"{'✓' if self.over else '✗'} {self.message}",
        }


@dataclass(slots=True)
class _Seen:
    """What one host was like until now."""

    silent: int = 0
    looked: float = 0.0
    restarts: dict[str, deque[bool]] = field(default_factory=dict)


class Watcher:
    """Looks at hosts again and again."""

    def __init__(self, fleet: Fleet, selector: str = "all", *, disk_percent: float = 90, patience: int = 2) -> None:
        """`patience`: how often in a row a host must be silent before it is gone.

        Raises:
            UnknownHost: the selector names nobody.
        """
        fleet.select(selector)
        self._fleet = fleet
        self._selector = selector
        self._disk_percent = disk_percent
        self._patience = patience
        self._hosts: dict[str, _Seen] = {}
        self._known: dict[Trouble, float] = {}

    @property
    def troubles(self) -> Sequence[Trouble]:
        """What is wrong now, as far as it was seen."""
        return list(self._known)

    async def look(self) -> list[Notice]:
        """Ask every host once, all at the same time; what is new since the last look, what began first."""
        hosts = self._fleet.select(self._selector)
        machines = await self._fleet.call_many(hosts, MACHINE, {})
        answering = [host for host in hosts if not machines[host].host_failed]
        lists = await self._fleet.call_many(answering, CONTAINERS, {"all": True, "limit": 1000})
        notices: list[Notice] = []
        for host in hosts:
            found = dict(self._wrong(host, machines[host], lists.get(host)))
            notices += self._new(host, found, unseen=self._unseen(found, machines[host], lists.get(host)))
        # A host that was removed from the fleet is nobody's trouble any more.
        self._known = {one: began for one, began in self._known.items() if one.host in hosts}
        self._hosts = {host: self._hosts[host] for host in hosts}
        return sorted(notices, key=lambda one: one.over)

    def _wrong(self, host: str, machine: Outcome, listed: Outcome | None) -> Iterator[tuple[Trouble, str]]:
        """What is wrong with one host now, in words."""
        seen = self._hosts.setdefault(host, _Seen())
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
        elif listed is not None and isinstance(listed.error, EngineError):
            yield Trouble(host, "engine"), f"the Docker engine on {host} does not answer: {listed.error.message}"

    def _full_disks(self, host: str, machine: Outcome) -> Iterator[tuple[Trouble, str]]:
        for disk in (machine.answer.result or {}).get("disks", ()):
            trouble = Trouble(host, "disk", disk["mount"])
            limit = self._disk_percent - (MARGIN if trouble in self._known else 0)
            if disk["percent"] >= limit:
                free = text.size(disk["total"] - disk["used"])
                yield trouble, f"disk {disk['mount']} on {host} is {disk['percent']:.0f} % full, {free} are left"

    def _sick_containers(self, host: str, listed: Outcome, seen: _Seen) -> Iterator[tuple[Trouble, str]]:
        rows = (listed.answer.result or {}).get("containers", ())
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
                yield trouble, f"{name} on {host} restarts again and again"

    def _unseen(self, found: Mapping[Trouble, str], machine: Outcome, listed: Outcome | None) -> set[Kind]:
        """The kinds of trouble that nobody could look for: they are neither there nor over."""
        if machine.host_failed:
            return {"gone", "engine", "disk", "unhealthy", "restarting"}
        return set() if listed is not None and listed.ok else {"unhealthy", "restarting"}

    def _new(self, host: str, found: Mapping[Trouble, str], *, unseen: set[Kind]) -> Iterator[Notice]:
        now = time.time()
        for trouble, words in found.items():
            if trouble not in self._known:
                self._known[trouble] = now
                yield Notice(trouble, words, now, now)
        for trouble in [one for one in self._known if one.host == host and one not in found]:
            if trouble.kind not in unseen:
                began = self._known.pop(trouble)
                yield Notice(trouble, _over(trouble, now - began), began, now, over=True)


def _restarted(row: Mapping[str, Any], passed: float) -> bool:
    """Whether a container restarts now, or did since it was seen `passed` seconds ago (0: it was not)."""
    if row["state"] == "restarting":
        return True
    up = JUST_UP.match(row["status"])
    return up is not None and row["state"] == "running" and int(up["seconds"] or 0) + 1 < passed


def _over(trouble: Trouble, seconds: float) -> str:
    what = {
        "gone": f"{trouble.host} is back",
        "engine": f"the Docker engine on {trouble.host} answers again",
        "disk": f"disk {trouble.subject} on {trouble.host} has room again",
        "unhealthy": f"{trouble.subject} on {trouble.host} is no longer unhealthy",
        "restarting": f"{trouble.subject} on {trouble.host} no longer restarts",
    }[trouble.kind]
    return f"{what}, after {text.duration(max(seconds, 1))}"
