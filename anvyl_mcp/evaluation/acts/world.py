"""State of the simulated fleet, read from `fleet.toml` and patched per task."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import InvalidInput, NotFound, did_you_mean

STARTED, ENDED, CREATED = timedelta(hours=3), timedelta(hours=2), timedelta(days=40)
"""How long ago all of the fleet was created, what runs was started, and what ended ended, as in `STATUS`."""
STATUS = {"running": "Up 3 hours", "exited": "Exited ({code}) 2 hours ago", "restarting": "Restarting ({code}) 9 s ago"}


def time_ago(ago: timedelta = timedelta(0)) -> str:
    """A time before now, in ISO 8601."""
    return (datetime.now(UTC) - ago).isoformat(timespec="seconds")


@dataclass
class Container:
    """One simulated container."""

    name: str
    image: str
    state: str = "running"
    health: str = ""
    exit_code: int = 0
    ports: list[str] = field(default_factory=list)
    cpu: float = 0.5
    memory: int = 32 * 1024**2
    env: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    command: str = ""
    restart: str = "unless-stopped"
    logs: list[str] = field(default_factory=list)
    starts: int = 0
    made: bool = False
    changed: bool = False
    """Whether it was created, or started or stopped, just now."""

    @property
    def id(self) -> str:
        """Stable id."""
        return hashlib.sha256(f"{self.name} {self.image}".encode()).hexdigest()[:12]

    @property
    def status(self) -> str:
        """Status as in `docker ps`."""
        words = STATUS.get(self.state, self.state.capitalize()).format(code=self.exit_code)
        if self.changed:
            words = "Up 1 second" if self.state == "running" else f"Exited ({self.exit_code}) 1 second ago"
        return f"{words} ({self.health})" if self.health and self.state == "running" else words


@dataclass
class Host:
    """One simulated host: sizes in bytes; volumes and networks with the containers that use them."""

    name: str
    tags: tuple[str, ...]
    os: str
    docker: str
    cpus: int
    cpu_percent: float
    memory: dict[str, int]
    disks: list[dict[str, Any]]
    uptime_days: int
    processes: dict[str, tuple[float, int]]
    images: dict[str, int]
    volumes: dict[str, list[str]]
    networks: dict[str, list[str]]
    containers: dict[str, Container]
    events: list[tuple[str, str, str]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    down: bool = False

    def container(self, wanted: str) -> Container:
        """Find a container by name or id prefix.

        Raises:
            NotFound: there is none.
        """
        for one in self.containers.values():
            if wanted == one.name or (len(wanted) >= 4 and one.id.startswith(wanted)):
                return one
        raise NotFound(f"there is no container `{wanted}`", hint=did_you_mean(wanted, self.containers))


@dataclass
class World:
    """All hosts by name; the first is the local one."""

    hosts: dict[str, Host]

    @classmethod
    def patched(cls, patch: Mapping[str, Any]) -> World:
        """A fresh world with the patches of a task: `down`, and `containers`, `logs`, `env`, `labels` by `host/name`.

        Raises:
            InvalidInput: the patch names what is not there.
        """
        world = deepcopy(_written())
        for kind, wanted in patch.items():
            if kind == "down":
                for host in wanted:
                    world.host(host).down = True
            elif kind == "containers":
                for place, entry in wanted.items():
                    host, _, name = place.partition("/")
                    world.host(host).containers[name] = _container(name, entry)
            elif kind in ("logs", "env", "labels"):
                for place, lines in wanted.items():
                    host, _, name = place.partition("/")
                    setattr(world.host(host).container(name), kind, list(lines))
            else:
                raise InvalidInput(f"a task's world has no `{kind}`", hint="use down, containers, logs, env or labels")
        return world

    def host(self, name: str) -> Host:
        """Host by name.

        Raises:
            InvalidInput: there is none of that name.
        """
        if name not in self.hosts:
            raise InvalidInput(f"the simulated fleet has no host `{name}`", hint=did_you_mean(name, self.hosts))
        return self.hosts[name]


@cache
def _written() -> World:
    data = tomllib.loads(resources.files(__package__).joinpath("fleet.toml").read_text(encoding="utf-8"))
    return World({name: _host(name, entry) for name, entry in data["hosts"].items()})


def _host(name: str, entry: Mapping[str, Any]) -> Host:
    plain = {key: entry[key] for key in ("os", "docker", "cpus", "cpu_percent", "uptime_days", "volumes", "networks")}
    return Host(
        name=name,
        tags=tuple(entry["tags"]),
        memory=dict(_sized(entry["memory"])),
        disks=[dict(_sized(disk)) for disk in entry["disks"]],
        images={tag: _bytes(size) for tag, size in entry["images"].items()},
        processes={process: (cpu, _bytes(memory)) for process, (cpu, memory) in entry["processes"].items()},
        containers={one: _container(one, fields) for one, fields in entry.get("containers", {}).items()},
        **plain,
    )


def _container(name: str, entry: Mapping[str, Any]) -> Container:
    fields = dict(entry)
    if "memory" in fields:
        fields["memory"] = _bytes(fields["memory"])
    return Container(name, **fields)


def _sized(entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in entry.items():
        yield key, _bytes(value) if key in ("used", "total") else value


def _bytes(written: str) -> int:
    size = text.parse_size(written)
    assert size is not None, written
    return size
