"""A live view of the fleet for one viewer: each host is looked at by itself, so a silent one delays no other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.peers.fleet.fleet import Fleet, OnBehalf
from anvyl_mcp.peers.watch.health import check_host

SECONDS = 3.0
"""Between two looks at a host of a small fleet."""
SECONDS_PER_HOST = 0.1
"""Added for each host, so that a large fleet is not asked too often."""
USAGE_ROUNDS = 3
"""The usage of the containers, which engines measure slowly, is asked once in so many looks."""
TOOLS_SECONDS = 60.0


@dataclass(frozen=True)
class HostLook:
    """What a viewer sees of one host. `problem` is why a host that answers has no containers to show."""

    name: str
    url: str
    tags: tuple[str, ...]
    status: str
    hint: str = ""
    version: str = ""
    tools: tuple[str, ...] = ()
    containers: tuple[Mapping[str, Any], ...] | None = None
    more: int = 0
    problem: str = ""


@dataclass(frozen=True)
class UsageLook:
    """How busy one host is, and its containers: name → cpu percent, memory used and memory limit."""

    name: str
    resources: Mapping[str, Any]
    containers: Mapping[str, tuple[float, int, int]] = field(default_factory=dict)


class Viewer(Protocol):
    """Gets what changed."""

    def hosts(self, names: list[str]) -> None:
        """Take the names of all hosts, at first and when they change."""

    def host(self, look: HostLook) -> None:
        """Take a host that is new or has changed."""

    def usage(self, look: UsageLook) -> None:
        """Take the usage of a host."""


class Nudge:
    """Wakes the views at once after a change that was made through this server."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def __call__(self) -> None:
        """Wake them."""
        self._event.set()
        self._event = anyio.Event()

    async def wait(self, seconds: float) -> None:
        """Wait for the next change, at most so long."""
        with anyio.move_on_after(seconds):
            await self._event.wait()


class FleetView:
    """Looks at the hosts of a fleet, with the rights of the viewer, until it is cancelled."""

    def __init__(self, fleet: Fleet, viewer: Viewer, rights: OnBehalf | None, nudge: Nudge) -> None:
        self._fleet = fleet
        self._viewer = viewer
        self._rights = rights
        self._nudge = nudge

    async def run(self) -> None:
        """Look at every host, also those that are added later."""
        looking: dict[str, CancelScope] = {}
        async with anyio.create_task_group() as group:
            while True:
                names = self._fleet.hosts
                if list(looking) != names:
                    self._viewer.hosts(names)
                for name in [name for name in looking if name not in names]:
                    looking.pop(name).cancel()
                looking = {name: looking.get(name) or self._start(group, name) for name in names}
                await anyio.sleep(SECONDS)

    def _start(self, group: TaskGroup, name: str) -> CancelScope:
        scope = CancelScope()

        async def watch() -> None:
            with scope:
                await self._watch(name)

        group.start_soon(watch)
        return scope

    async def _watch(self, name: str) -> None:
        seen: HostLook | None = None
        tools, tools_at, rounds = tuple[str, ...](), float("-inf"), 0
        while name in self._fleet.peers:
            if not tools or time.monotonic() - tools_at > TOOLS_SECONDS:
                tools, tools_at = await self._tools(name), time.monotonic()
            found = await self._look(name, tools)
            if found.status != "ok":
                tools = ()
            if found != seen:
                self._viewer.host(found)
                seen = found
            if found.status == "ok":
                await self._measure(name, tools, containers=rounds % USAGE_ROUNDS == 0 and found.containers is not None)
                rounds += 1
            await self._nudge.wait(SECONDS + SECONDS_PER_HOST * len(self._fleet.hosts))

    async def _tools(self, name: str) -> tuple[str, ...]:
        """The tools that the host offers and the viewer may use; none if it does not answer."""
        try:
            offered = await self._fleet.list_tools(name)
        except AnvylError:
            return ()
        known = [self._fleet.catalogue[one.name] for one in offered if one.name in self._fleet.catalogue]
        return tuple(one.name for one in known if self._rights is None or one.scope in self._rights.scopes)

    async def _look(self, name: str, tools: tuple[str, ...]) -> HostLook:
        health = await check_host(self._fleet, name)
        look = HostLook(name, health.url, health.tags, health.status, health.hint, health.version, tools)
        if not health.ok or "list_containers" not in tools:
            return look
        outcome = await self._fleet.call(name, "list_containers", {"all": True}, on_behalf=self._rights)
        if outcome.host_failed and outcome.word != "engine_error":
            return HostLook(name, look.url, look.tags, outcome.status, outcome.error.hint if outcome.error else "")
        problem = str(outcome.error) if outcome.error else ""
        result = outcome.answer.result or {}
        rows = None if outcome.error else tuple(result.get("containers") or ())
        more = int(result.get("more") or 0)
        return HostLook(name, look.url, look.tags, look.status, look.hint, look.version, tools, rows, more, problem)

    async def _measure(self, name: str, tools: tuple[str, ...], *, containers: bool) -> None:
        resources, usage = dict[str, Any](), dict[str, tuple[float, int, int]]()

        async def ask(tool: str) -> dict[str, Any]:
            if tool not in tools:
                return {}
            outcome = await self._fleet.call(name, tool, {}, on_behalf=self._rights)
            return outcome.answer.result or {} if outcome.ok else {}

        async def ask_containers() -> None:
            for row in (await ask("get_container_stats")).get("containers", []):
                usage[str(row["name"])] = _figures(row)

        async with anyio.create_task_group() as group:
            if containers:
                group.start_soon(ask_containers)
            resources = await ask("get_host_resources")
            if resources and containers:
                # The machine first: its figures take no time.
                self._viewer.usage(UsageLook(name, resources))
        if usage or (resources and not containers):
            self._viewer.usage(UsageLook(name, resources, usage))


def _figures(row: Mapping[str, Any]) -> tuple[float, int, int]:
    cpu, used, limit = row.get("cpu_percent") or 0, row.get("memory_used") or 0, row.get("memory_limit") or 0
    return float(cpu), int(used), int(limit)
