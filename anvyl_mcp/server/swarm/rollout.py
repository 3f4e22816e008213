"""Watch a change of a service until its tasks run, the Swarm went back, or time is up."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Cancelled
from anvyl_mcp.server.engine import compat
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.swarm import nodes
from anvyl_mcp.server.swarm.services import (
    FAILED,
    image_of,
    latest_error,
    list_tasks,
    read_service,
    replicas_of,
    runs,
    service_name,
    task_state,
)
from anvyl_mcp.server.tool import Result

POLL_SECONDS = 0.25
START_SECONDS = 60
"""How long tasks may take to run: image pulls included."""
UPDATE_SECONDS = 280
MOST_FAILURES = 3
"""Failed tasks after which nothing more is expected of a service of which none runs."""


class ServiceState(Result):
    """A service after a change; `note` says what is not as wanted, and why."""

    id: str
    name: str
    image: str
    running: int
    replicas: int
    update: str = ""
    note: str = ""
    removed: bool = False

    def text(self) -> str:
        """One line."""
        if self.removed:
            return f"removed service {self.name}"
        words = [f"{self.name} runs {self.running} of {self.replicas}"]
        return ", ".join([*words, *filter(None, [self.update, self.note])])


def wait_until_running(engine: Engine, service_id: str, progress: Progress) -> tuple[int, str]:
    """Wait until a service has all its tasks. Returns how many run, and why others do not.

    Raises:
        Cancelled: the caller cancelled; the service stays.
    """
    wanted = replicas_of(read_service(engine, service_id)["Spec"])
    running, why = 0, ""
    for tasks in _poll(engine, service_id, progress, START_SECONDS):
        expected = _expected(tasks) if wanted is None else wanted
        running, surplus = _running(engine, tasks), sum(map(_is_leaving, tasks))
        progress(running, expected, f"{running} of {expected} run")
        if running == expected and not surplus:
            return running, ""
        why = latest_error([one for one in tasks if task_state(one) != "shutdown"])
        if not running and sum(task_state(one) in FAILED for one in tasks) >= MOST_FAILURES:
            break
    return running, why or "still starting"


def wait_for_update(engine: Engine, service_id: str, before: str, progress: Progress) -> tuple[int, str, str]:
    """Wait until an update has ended. Returns how many tasks run, how it ended, and why it failed.

    `before`: when the previous update began. A new specification whose tasks are the same has no update.

    Raises:
        Cancelled: the caller cancelled; the Swarm goes on with the update.
    """
    running, state, why = 0, "", ""
    for tasks in _poll(engine, service_id, progress, UPDATE_SECONDS):
        service = read_service(engine, service_id)
        status = compat.mapping(service.get("UpdateStatus"))
        state = compat.string(status.get("State")) if status.get("StartedAt") != before else ""
        running = _running(engine, tasks)
        why = why or latest_error([one for one in tasks if task_state(one) in FAILED and _since(one, status)])
        wanted = replicas_of(service["Spec"])
        progress(running, wanted, f"{state.replace('_', ' ') or 'updating'}: {running} of {wanted} run")
        if state in ("paused", "rollback_paused"):
            break
        if state in ("completed", "rollback_completed"):
            # A rollback is complete for the Swarm once the old tasks are assigned.
            running, _ = wait_until_running(engine, service_id, progress)
            break
    return running, state.replace("_", " ") or "still updating", why


def wait_until_empty(engine: Engine, node_id: str, progress: Progress) -> int:
    """Wait until no task runs on a drained node. Returns how many still do.

    Raises:
        Cancelled: the caller cancelled; the node stays drained.
    """
    left = 0
    for tasks in _poll(engine, "", progress, START_SECONDS):
        left = sum(one.get("NodeID") == node_id and task_state(one) == "running" for one in tasks)
        progress(0, None, f"{text.plural(left, 'task')} left")
        if not left:
            break
    return left


def state_of(engine: Engine, service_id: str, running: int, *, update: str = "", note: str = "") -> ServiceState:
    """The state of a service after a change."""
    service = read_service(engine, service_id)
    wanted = replicas_of(service["Spec"])
    return ServiceState(
        id=service_id[:12],
        name=service_name(service),
        image=image_of(service["Spec"]),
        running=running,
        replicas=running if wanted is None else wanted,
        update=update,
        note=note,
    )


def replace(engine: Engine, service: Mapping[str, Any], spec: dict[str, Any], *, image: str = "") -> None:
    """Give a service a new specification; refused if another change came between."""
    with engine_errors(doing=f"to update the service `{service_name(service)}`"):
        engine.client(CHANGE_TIMEOUT).replace_service(
            str(service["ID"]), int(service["Version"]["Index"]), spec, image=image
        )


def started_at(service: Mapping[str, Any]) -> str:
    """When the last update began; empty if there was none."""
    return compat.string(compat.mapping(service.get("UpdateStatus")).get("StartedAt"))


def _poll(engine: Engine, service_id: str, progress: Progress, seconds: float) -> Iterator[list[dict[str, Any]]]:
    """The tasks of a service, again and again: the engine has no event for the state of tasks on other nodes."""
    deadline = time.monotonic() + seconds
    while True:
        yield list_tasks(engine, service_id)
        if progress.cancelled:
            raise Cancelled("stopped watching; the Swarm goes on with the change", hint="see `list_services`")
        if time.monotonic() > deadline:
            return
        time.sleep(POLL_SECONDS)


def _running(engine: Engine, tasks: list[dict[str, Any]]) -> int:
    """Tasks that run on nodes that answer: of others the Swarm knows only the last state."""
    found = [one for one in tasks if runs(one)]
    if len({one.get("NodeID") for one in found}) <= 1:
        return len(found)
    up = {one["ID"] for one in nodes.list_nodes(engine) if compat.mapping(one.get("Status")).get("State") == "ready"}
    return sum(runs(one, up) for one in found)


def _is_leaving(task: Mapping[str, Any]) -> bool:
    """Whether a task still runs that the Swarm wants to stop."""
    return task.get("DesiredState") in ("shutdown", "remove") and task_state(task) in ("running", "starting")


def _expected(tasks: list[dict[str, Any]]) -> int:
    return sum(one.get("DesiredState") in ("running", "ready") for one in tasks)


def _since(task: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether a task was created in the update with this status. Times of one manager, in one format."""
    return compat.string(task.get("CreatedAt"))[:19] >= compat.string(status.get("StartedAt"))[:19]
