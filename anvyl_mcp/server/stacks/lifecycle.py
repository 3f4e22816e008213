"""Start, stop, restart and remove the containers of a stack in the order of their dependencies, and watch them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Cancelled, Conflict, Incomplete, NotFound
from anvyl_mcp.server.containers.views import PROJECT
from anvyl_mcp.server.engine import lookup
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine
from anvyl_mcp.server.engine.engine_errors import brief, engine_errors
from anvyl_mcp.server.engine.logs import reader
from anvyl_mcp.server.policy.guardrails import is_hidden
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.stacks.projects import LABEL, Project, StackContainer

DEPENDENCIES = f"{LABEL}depends_on"
HEALTHY = "service_healthy"
SETTLE_SECONDS = 2.0
"""How long a container without a health check must run before it counts as started."""
HEALTH_SECONDS = 120.0
MAX_HEALTH_SECONDS = 600.0
POLL_SECONDS = 0.5
MOST_RESTARTS = 2
PARALLEL = 8
LAST_LINES = 3


def levels(containers: Sequence[StackContainer], labels: Mapping[str, Mapping[str, str]]) -> list[list[StackContainer]]:
    """Containers by dependency: those of one level depend only on earlier levels. `labels` by container id."""
    graph = {one.service: set(dependencies(labels[one.id])) for one in containers}
    known = {name: needed & graph.keys() for name, needed in graph.items()}
    sorter = TopologicalSorter(known)
    try:
        sorter.prepare()
    except CycleError:
        # Labels from outside may say anything.
        return [list(containers)]
    ordered = []
    while sorter.is_active():
        ready = sorter.get_ready()
        ordered.append([one for one in containers if one.service in ready])
        sorter.done(*ready)
    return ordered


def dependencies(labels: Mapping[str, str]) -> dict[str, str]:
    """Condition by service that a container depends on, from a label like `db:service_healthy:false,cache:…`."""
    parts = (one.split(":") for one in labels.get(DEPENDENCIES, "").split(",") if one)
    return {part[0]: part[1] if len(part) > 1 else "" for part in parts}


def for_each(
    containers: Sequence[StackContainer], change: Callable[[StackContainer], None], progress: Progress, doing: str
) -> None:
    """Change the containers of one level at the same time.

    Raises:
        AnvylError: the first error, after all have ended.
        Cancelled: the caller cancelled before this level.
    """
    if progress.cancelled:
        raise Cancelled(f"{doing} was cancelled before {text.join_names([one.name for one in containers])}")
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(copy_context().run, change, one) for one in containers]
    for future in futures:
        future.result()


@dataclass
class StackWatch:
    """Watches the containers of a stack until each runs and is healthy, or has failed."""

    engine: Engine
    stack: str
    progress: Progress
    _seen: dict[str, float] = field(default_factory=dict)
    _limits: dict[str, float] = field(default_factory=dict)

    def wait(self, services: Sequence[str] | None = None) -> None:
        """Wait for some services, or for all.

        Raises:
            Incomplete: a container failed, or did not become healthy in time; the message names each.
            Cancelled: the caller cancelled.
        """
        began = time.monotonic()
        while True:
            entries = [
                one
                for one in self.engine.containers(all=True, label=f"{PROJECT}={self.stack}")
                if services is None or one["Labels"].get(f"{LABEL}service") in services
            ]
            states = {one["Id"]: self._judge(one["Id"]) for one in entries if not _is_one_off(one)}
            failed = [state for state in states.values() if state.failed]
            waiting = [state for state in states.values() if state.waiting]
            if failed and not waiting:
                raise self._failure(list(states.values()))
            if not waiting:
                return
            passed = time.monotonic() - began
            if passed > max(self._limits.values(), default=HEALTH_SECONDS):
                raise self._failure(list(states.values()))
            if self.progress.cancelled:
                raise Cancelled(
                    f"stopped watching `{self.stack}`: {', '.join(state.words for state in waiting)}",
                    hint="its containers keep running",
                )
            names = text.join_names([state.name for state in waiting])
            self.progress(passed, None, f"waiting for {names} ({passed:.0f} s)")
            time.sleep(POLL_SECONDS)

    def _judge(self, identity: str) -> _State:
        try:
            found = self.engine.inspect(identity)
        except NotFound:
            return _State("", "")
        state, name = found["State"], str(found["Name"]).lstrip("/")
        if identity not in self._limits:
            self._limits[identity] = _health_limit(found)
        status, health = str(state["Status"]), str(state["Health"]["Status"])
        code, restarts = int(state["ExitCode"] or 0), int(found["RestartCount"] or 0)
        hidden = is_hidden(found)
        if status == "restarting" or (restarts >= MOST_RESTARTS and status == "running" and health != "healthy"):
            failed = restarts >= MOST_RESTARTS
            return _State(name, f"keeps restarting (exit code {code})", failed, not failed, hidden)
        if status == "running":
            if health == "unhealthy":
                return _State(name, "is unhealthy", failed=True, hidden=hidden)
            first = self._seen.setdefault(f"{identity} {state['StartedAt']}", time.monotonic())
            settled = time.monotonic() - first >= SETTLE_SECONDS
            waiting = health == "starting" or (health != "healthy" and not settled)
            return _State(name, "is still starting" if waiting else "is running", waiting=waiting, hidden=hidden)
        if status == "exited":
            return _State(name, f"exited with code {code}", failed=code != 0, hidden=hidden)
        reason = text.one_line(brief(str(state["Error"] or "")))
        return _State(name, f"could not start: {reason}" if reason else f"is {status}", failed=True, hidden=hidden)

    def _failure(self, states: Sequence[_State]) -> Incomplete:
        bad = [state for state in states if state.failed or state.waiting]
        good = [state.name for state in states if not (state.failed or state.waiting) and state.name]
        words = [f"{state.name} {state.words}{self._last_words(state)}" for state in bad]
        fine = f"; {text.join_names(good)} {'is' if len(good) == 1 else 'are'} fine" if good else ""
        return Incomplete(f"`{self.stack}` did not come up: {'; '.join(words)}{fine}")

    def _last_words(self, state: _State) -> str:
        """The end of the log of a failed container, without containers whose labels hide their log."""
        if not state.failed or state.hidden:
            return ""
        with suppress(AnvylError):
            container = self.engine.inspect(state.name)
            lines = reader.read_log(self.engine, container, tail=LAST_LINES, since="", grep="").lines
            said = " | ".join(one.strip() for one in lines if one.strip())[-300:]
            return f" (last log lines: {said})" if said else ""
        return ""


@dataclass(frozen=True, slots=True)
class _State:
    name: str
    words: str
    failed: bool = False
    waiting: bool = False
    hidden: bool = False


def _is_one_off(entry: Mapping[str, Any]) -> bool:
    return str((entry.get("Labels") or {}).get(f"{LABEL}oneoff") or "").casefold() == "true"


def _health_limit(found: Mapping[str, Any]) -> float:
    """Seconds within which the health check of a container must have succeeded or failed."""
    check = found["Config"].get("Healthcheck") or {}
    interval = (check.get("Interval") or 30e9) + (check.get("Timeout") or 30e9)
    needed = ((check.get("StartPeriod") or 0) + interval * ((check.get("Retries") or 3) + 1)) / 1e9
    return min(MAX_HEALTH_SECONDS, max(HEALTH_SECONDS, needed)) if check.get("Test") else HEALTH_SECONDS


def start(engine: Engine, project: Project, inspected: Mapping[str, Mapping[str, Any]], progress: Progress) -> None:
    """Start all containers, each after those that it depends on, and those that must be healthy first.

    Raises:
        Incomplete: one does not come up.
    """
    labels = {identity: found["Config"]["Labels"] for identity, found in inspected.items()}
    watch = StackWatch(engine, project.name, progress)

    def start_one(one: StackContainer) -> None:
        with engine_errors(doing=f"to start `{one.name}`"):
            engine.client(CHANGE_TIMEOUT).start(one.id)

    for level in levels(_members(project), labels):
        needed = {service for one in level for service, how in dependencies(labels[one.id]).items() if how == HEALTHY}
        if needed:
            watch.wait(sorted(needed))
        progress(0, None, f"starting {text.join_names([one.name for one in level])}")
        for_each(level, start_one, progress, f"starting {project.name}")
    watch.wait()


def stop(engine: Engine, project: Project, inspected: Mapping[str, Mapping[str, Any]], progress: Progress) -> None:
    """Stop all containers, each before those that it depends on."""
    labels = {identity: found["Config"]["Labels"] for identity, found in inspected.items()}

    def stop_one(one: StackContainer) -> None:
        with engine_errors(doing=f"to stop `{one.name}`"):
            # Without a timeout, the engine waits as long as the container's own stop timeout.
            engine.client(CHANGE_TIMEOUT).stop(one.id)

    for level in reversed(levels(_members(project), labels)):
        progress(0, None, f"stopping {text.join_names([one.name for one in level])}")
        for_each(level, stop_one, progress, f"stopping {project.name}")


def _members(project: Project) -> list[StackContainer]:
    return [one for containers in project.services.values() for one in containers]


def remove(engine: Engine, project: Project, volumes: Sequence[str], progress: Progress) -> Iterator[str]:
    """Remove the containers of a stack, its networks and the given volumes; yields what was removed."""
    for one in project.containers:
        if progress.cancelled:
            raise Cancelled(f"removing {project.name} was cancelled before {one.name}")
        progress(0, None, f"removing {one.name}")
        with engine_errors(doing=f"to remove `{one.name}`"):
            engine.client(CHANGE_TIMEOUT).remove_container(one.id, force=True, v=True)
        yield f"container {one.name}"
    for network in named(lookup.list_networks(engine), project.name):
        with engine_errors(doing=f"to remove the network `{network['Name']}`"):
            engine.client(CHANGE_TIMEOUT).remove_network(network["Id"])
        yield f"network {network['Name']}"
    for name in volumes:
        with engine_errors(doing=f"to remove the volume `{name}`"):
            engine.client(CHANGE_TIMEOUT).remove_volume(name)
        yield f"volume {name}"


def removable(engine: Engine, project: Project, volumes: Sequence[str]) -> list[str]:
    """What `remove` would remove."""
    networks = [f"network {one['Name']}" for one in named(lookup.list_networks(engine), project.name)]
    return [*(f"container {one.name}" for one in project.containers), *networks, *(f"volume {one}" for one in volumes)]


def check_unshared(engine: Engine, project: Project, names: Sequence[str]) -> None:
    """Return if no container of something else uses one of these volumes.

    Raises:
        Conflict: one does; nothing was removed.
    """
    own = {one.id for one in project.containers}
    for entry in engine.containers(all=True):
        used = [str(one.get("Name")) for one in entry["Mounts"] if one.get("Name") in names]
        if used and entry["Id"] not in own:
            raise Conflict(
                f"the volume `{used[0]}` of `{project.name}` is also used by `{entry['Names'][0].lstrip('/')}`",
                hint="remove that container first, or the stack without its volumes",
            )


def named(objects: Sequence[dict[str, Any]], stack: str) -> list[dict[str, Any]]:
    """The networks or volumes that Compose created for a stack, by name."""
    found = [one for one in objects if str((one.get("Labels") or {}).get(PROJECT) or "") == stack]
    return sorted(found, key=lambda one: str(one["Name"]))
