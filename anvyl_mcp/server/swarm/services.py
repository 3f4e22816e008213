"""The services of a Swarm and their tasks, as one of its managers sees them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NotFound, did_you_mean
from anvyl_mcp.server.engine import compat, timestamps
from anvyl_mcp.server.engine.engine import Engine, ambiguous_id, check_unchanged
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.policy import object_names
from anvyl_mcp.server.policy.guardrails import check_labels
from anvyl_mcp.server.swarm.membership import manager_errors
from anvyl_mcp.server.tool import CURRENT_TOOL, Row, Time

ServiceName = Annotated[str, Field(description="name or id", min_length=1, json_schema_extra={"x-names": "service"})]
"""A service that must exist."""
FAILED = ("failed", "rejected")
MAX_MESSAGE = 200


class Service(Row):
    """One service; `running` are its tasks that run now, `replicas` those it should have."""

    columns = ("name", "image", "mode", "running", "replicas", "ports", "problem")

    id: str
    name: str
    image: str
    mode: str
    running: int
    replicas: int
    ports: list[str]
    update: str = ""
    problem: str = ""
    created: Time = ""


class Task(Row):
    """One task: a container of a service on a node, or one that waits or failed."""

    columns = ("name", "node", "state", "since", "image", "error")

    id: str
    name: str
    node: str
    state: str
    wanted: str
    image: str
    since: Time = ""
    error: str = ""


def list_services(engine: Engine) -> list[dict[str, Any]]:
    """`GET /services`."""
    with manager_errors(engine, "to list the services"):
        found = engine.client().services()  # type: ignore[no-untyped-call]  # the stubs leave it out
        return compat.parse_list(found, compat.swarm_object)


def find_service(engine: Engine, name: str) -> dict[str, Any]:
    """A service by name, id or unique id prefix, if its labels allow the running tool.

    Raises:
        NotFound: there is none.
        Denied: its labels forbid it.
    """
    known = list_services(engine)
    exact = [one for one in known if name in (one["ID"], service_name(one))]
    found = exact or [one for one in known if len(name) >= 4 and one["ID"].startswith(name)]
    if not found:
        names = [service_name(one) for one in known]
        hint = did_you_mean(name, names) or "there are no services"
        raise NotFound(f"the Swarm has no service `{object_names.shorten(name)}`", hint=hint)
    if len(found) > 1:
        raise ambiguous_id("service", name, [(service_name(one), one["ID"]) for one in found])
    service = found[0]
    check_unchanged("service", name, service["ID"])
    if tool := CURRENT_TOOL.get():
        check_labels(tool, {"Name": service_name(service), "Labels": service_labels(service)})
    return service


def read_service(engine: Engine, service_id: str) -> dict[str, Any]:
    """A service as it is now, by its whole id."""
    with engine_errors(doing="to inspect the service"):
        found = engine.client().inspect_service(service_id)  # type: ignore[no-untyped-call]  # the stubs leave it out
        return compat.swarm_object(found)


def service_name(service: Mapping[str, Any]) -> str:
    """The name of a service."""
    return text.one_line(compat.string(service["Spec"].get("Name"))) or str(service["ID"])[:12]


def service_labels(service: Mapping[str, Any]) -> dict[str, str]:
    """The labels of a service and of its containers."""
    spec = service["Spec"]
    return {**compat.labels(container_spec(spec).get("Labels")), **compat.labels(spec.get("Labels"))}


def container_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a specification says about its containers."""
    return compat.mapping(compat.mapping(spec.get("TaskTemplate")).get("ContainerSpec"))


def image_of(spec: Mapping[str, Any]) -> str:
    """The image of a specification, without the digest that the engine adds to a tag."""
    image = compat.string(container_spec(spec).get("Image"))
    name, _, _ = image.partition("@")
    return text.one_line(name if ":" in name.rpartition("/")[2] else image)


def replicas_of(spec: Mapping[str, Any]) -> int | None:
    """How many tasks a specification wants; None for a mode that is not replicated."""
    replicated = compat.mapping(spec.get("Mode")).get("Replicated")
    return compat.number(compat.mapping(replicated).get("Replicas")) if isinstance(replicated, dict) else None


def list_tasks(engine: Engine, service_id: str = "") -> list[dict[str, Any]]:
    """`GET /tasks`: of one service, or of all."""
    with engine_errors(doing="to list the tasks"):
        filters = {"service": service_id} if service_id else None
        found = engine.client().tasks(filters=filters)  # type: ignore[no-untyped-call]  # the stubs leave it out
        return compat.parse_list(found, compat.swarm_object)


def is_current(task: Mapping[str, Any]) -> bool:
    """Whether the Swarm wants this task to run."""
    return task.get("DesiredState") in ("running", "ready", "accepted")


def task_state(task: Mapping[str, Any]) -> str:
    """The state of a task."""
    return compat.string(compat.mapping(task.get("Status")).get("State")) or "unknown"


def runs(task: Mapping[str, Any], reachable: Collection[str] | None = None) -> bool:
    """Whether a task runs, and on one of the `reachable` nodes if these are given."""
    on_node = reachable is None or compat.string(task.get("NodeID")) in reachable
    return task.get("DesiredState") == "running" and task_state(task) == "running" and on_node


def task_error(task: Mapping[str, Any]) -> str:
    """Why a task does not run, in the engine's words."""
    status = compat.mapping(task.get("Status"))
    return text.one_line(compat.string(status.get("Err")))[:MAX_MESSAGE]


def latest_error(tasks: Iterable[Mapping[str, Any]]) -> str:
    """The error of the task that changed last, with what is known of its exit."""
    failed = [one for one in tasks if task_error(one)]
    failed.sort(key=lambda one: compat.string(compat.mapping(one.get("Status")).get("Timestamp")))
    return task_error(failed[-1]) if failed else ""


def service_rows(engine: Engine, services: Iterable[Mapping[str, Any]]) -> list[Service]:
    """Rows for services, those with a problem first."""
    by_service = defaultdict[str, list[dict[str, Any]]](list)
    for task in list_tasks(engine):
        by_service[compat.string(task.get("ServiceID"))].append(task)
    rows = [service_row(one, by_service[one["ID"]]) for one in services]
    return sorted(rows, key=lambda row: (not row.problem, row.running >= row.replicas, row.name))


def service_row(service: Mapping[str, Any], tasks: list[dict[str, Any]]) -> Service:
    """A row for one service."""
    spec = service["Spec"]
    running, wanted = sum(map(runs, tasks)), replicas_of(spec)
    mode = next(iter(compat.mapping(spec.get("Mode"))), "Replicated").lower()
    expected = sum(map(is_current, tasks)) if wanted is None else wanted
    return Service(
        id=str(service["ID"])[:12],
        name=service_name(service),
        image=image_of(spec),
        mode="replicated" if mode.startswith("replicated") else "global",
        running=running,
        replicas=expected,
        ports=[_port(one) for one in compat.objects(compat.mapping(service.get("Endpoint")).get("Ports"))],
        update=update_words(service),
        problem=latest_error(tasks) if running < expected else "",
        created=timestamps.to_iso(service.get("CreatedAt")),
    )


def update_words(service: Mapping[str, Any]) -> str:
    """The state of the last update, like `rollback completed`; empty if there was none."""
    return compat.string(compat.mapping(service.get("UpdateStatus")).get("State")).replace("_", " ")


def task_rows(tasks: Iterable[Mapping[str, Any]], name: str, nodes: Mapping[str, str]) -> list[Task]:
    """Rows for the tasks of a service: those that should run, by number, then the latest that ended."""
    every = sorted(tasks, key=lambda one: compat.string(compat.mapping(one.get("Status")).get("Timestamp")))
    current = sorted(filter(is_current, every), key=lambda one: compat.number(one.get("Slot")) or 0)
    past = [one for one in reversed(every) if not is_current(one)]
    return [_task_row(one, name, nodes) for one in [*current, *past]]


def task_name(task: Mapping[str, Any], service: str, nodes: Mapping[str, str]) -> str:
    """The name of a task: `web.3`, or of a service with one task on each node `web.nas`."""
    slot = compat.number(task.get("Slot"))
    return f"{service}.{slot or nodes.get(compat.string(task.get('NodeID')), '?')}"


def _task_row(task: Mapping[str, Any], name: str, nodes: Mapping[str, str]) -> Task:
    node = compat.string(task.get("NodeID"))
    return Task(
        id=str(task["ID"])[:12],
        name=task_name(task, name, nodes),
        node=nodes.get(node, node[:12]),
        state=task_state(task),
        wanted=compat.string(task.get("DesiredState")),
        image=image_of({"TaskTemplate": task["Spec"]}),
        since=timestamps.to_iso(compat.mapping(task.get("Status")).get("Timestamp")),
        error=task_error(task),
    )


def _port(port: Mapping[str, Any]) -> str:
    inner = f"{port.get('TargetPort')}/{port.get('Protocol') or 'tcp'}"
    where = "" if port.get("PublishMode") == "host" else " on every node"
    return f"{port['PublishedPort']}->{inner}{where}" if port.get("PublishedPort") else inner
