"""Services and nodes of a Docker Swarm, offered while this engine is one of its managers."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from pydantic import Field

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Conflict, EngineError
from anvyl_mcp.server.engine import compat
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.swarm import nodes, rollout, service_logs, service_spec, services
from anvyl_mcp.server.swarm.membership import require_manager
from anvyl_mcp.server.swarm.nodes import Node, NodeName
from anvyl_mcp.server.swarm.rollout import ServiceState
from anvyl_mcp.server.swarm.services import Service, ServiceName, Task
from anvyl_mcp.server.tool import Result, Strings, tool

Replicas = Annotated[int, Field(description="how many containers", ge=0, le=1000)]
MOST_TASKS = 50


class Nodes(Result):
    """The nodes of the Swarm."""

    nodes: list[Node]
    total: int
    more: int = 0


class Services(Result):
    """The services of the Swarm, those with a problem first."""

    services: list[Service]
    total: int
    more: int = 0


class ServiceInfo(Result):
    """A service and where its tasks run."""

    name: str
    image: str
    running: int
    replicas: int
    update: str = ""
    command: str = ""
    constraints: list[str] = Field(default=[])
    tasks: list[Task]
    total: int
    more: int = 0


class ServiceLogs(Result):
    """The last lines of all tasks of a service."""

    lines: list[str]
    truncated: bool
    note: str = ""

    def text(self) -> str:
        """The lines, below a note if some are missing."""
        left_out = "earlier lines left out; raise `tail` or use `grep`" if self.truncated else ""
        head = [f"… {words}" for words in (self.note, left_out) if words]
        return "\n".join(head + self.lines) or "(nothing logged)"


class NodeState(Result):
    """A node after a change; `moved` are the tasks that had to go elsewhere, `left` those that still run there."""

    id: str
    name: str
    availability: str
    left: int = 0

    def text(self) -> str:
        """One line."""
        if self.availability != "drain":
            return f"node {self.name} takes tasks again"
        left = f"; {text.plural(self.left, 'task')} still end there" if self.left else ""
        return f"node {self.name} is drained{left}"


@tool(
    say=["list nodes", "show nodes", "list swarm nodes", "show the swarm"],
    about="swarm node, drained, cluster",
    rare=True,
)
def list_nodes(engine: Engine) -> Nodes:
    """List the machines of the Swarm: state, role, availability."""
    require_manager(engine)
    on_node = Counter(one.get("NodeID") for one in services.list_tasks(engine) if services.runs(one))
    found = [nodes.node_row(one, on_node[one["ID"]]) for one in nodes.list_nodes(engine)]
    found.sort(key=lambda row: (row.status == "ready", row.role == "worker", row.name))
    return Nodes(nodes=found, total=len(found))


@tool(
    say=["list services", "show services", "service ls", "list swarm services"],
    about="swarm service, replica",
    rare=True,
)
def list_services(engine: Engine, limit: Annotated[int, Field(ge=1, le=1000)] = 100) -> Services:
    """List the services of the Swarm and how many of their replicas run."""
    require_manager(engine)
    found = services.service_rows(engine, services.list_services(engine))
    return Services(services=found[:limit], total=len(found), more=max(0, len(found) - limit))


@tool(
    say=["inspect service {name}", "show service {name}", "where does service {name} run", "service ps {name}"],
    about="swarm task",
    untrusted=True,
    rare=True,
)
def get_service_info(name: ServiceName, engine: Engine) -> ServiceInfo:
    """Show one service of the Swarm: on which nodes its replicas run, and why others failed."""
    require_manager(engine)
    service = services.find_service(engine, name)
    tasks = services.list_tasks(engine, service["ID"])
    row, spec = services.service_row(service, tasks), services.container_spec(service["Spec"])
    rows = services.task_rows(tasks, row.name, nodes.node_names(engine))
    placement = compat.mapping(compat.mapping(service["Spec"].get("TaskTemplate")).get("Placement"))
    return ServiceInfo(
        name=row.name,
        image=row.image,
        running=row.running,
        replicas=row.replicas,
        update=row.update,
        command=" ".join([*compat.strings(spec.get("Command")), *compat.strings(spec.get("Args"))]),
        constraints=compat.strings(placement.get("Constraints")),
        tasks=rows[:MOST_TASKS],
        total=len(rows),
        more=max(0, len(rows) - MOST_TASKS),
    )


@tool(
    say=["show logs of service {name}", "logs of service {name}", "service logs {name}"],
    about="swarm log",
    untrusted=True,
    seconds=30,
    rare=True,
)
def get_service_logs(
    name: ServiceName,
    engine: Engine,
    tail: Annotated[int, Field(description="last lines", ge=1, le=5000)] = 100,
    since: Annotated[str, Field(description="like 10m or a time")] = "",
    grep: Annotated[str, Field(description="only lines with this text")] = "",
) -> ServiceLogs:
    """Show the last lines that all replicas of a service logged, in order of time."""
    require_manager(engine)
    read = service_logs.read_log(engine, services.find_service(engine, name), tail=tail, since=since, grep=grep)
    return ServiceLogs(lines=read.lines, truncated=read.truncated, note=read.note)


@tool(
    say=[
        "create service {name} from {image}",
        "create service {name} from {image} with {replicas} replicas",
        "run {replicas} replicas of {image} as {name}",
        "run {replicas} copies of {image} as {name}",
        "keep {replicas} replicas of {image} running as {name}",
        "keep {replicas} copies of {image} running across the fleet as {name}",
    ],
    about="across the fleet, high availability, failover",
    changes=True,
    seconds=120,
    rare=True,
)
def create_service(
    image: Annotated[str, Field(description="like nginx:1.27", min_length=1, json_schema_extra={"x-uses": "image"})],
    name: Annotated[
        str, Field(description="of the new service", min_length=1, json_schema_extra={"x-makes": "service"})
    ],
    engine: Engine,
    progress: Progress,
    replicas: Replicas = 1,
    command: Annotated[str, Field(description="instead of the image's own")] = "",
    ports: Annotated[Strings, Field(description="like 8080:80, on every node")] = [],
    env: Annotated[Strings, Field(description="like KEY=value")] = [],
    volumes: Annotated[Strings, Field(description="like data:/data, on each node its own")] = [],
    labels: Annotated[Strings, Field(description="like key=value")] = [],
    network: Annotated[str, Field(description="an overlay network")] = "",
    constraints: Annotated[Strings, Field(description="like node.hostname==nas")] = [],
    memory: Annotated[str, Field(description="like 512m")] = "",
    cpus: Annotated[str, Field(description="like 1.5")] = "",
) -> ServiceState:
    """Keep several containers of an image running across the machines of the Swarm, also when one fails."""
    require_manager(engine)
    spec = service_spec.build_spec(
        image=image,
        name=name,
        replicas=replicas,
        command=command,
        published=ports,
        env=env,
        volumes=volumes,
        labels=labels,
        constraints=constraints,
        memory=memory,
        cpus=cpus,
    )
    if network:
        service_spec.join_network(engine, spec, network)
    with engine_errors(doing=f"to create the service `{name}`"):
        created = str(engine.client(CHANGE_TIMEOUT).post_service(spec, image=image))
    running, why = rollout.wait_until_running(engine, created, progress)
    if not running and replicas and why != "still starting":
        _remove_unstarted(engine, created, name)
        raise Conflict(f"no replica of `{name}` could run: {why}", hint="nothing was left; check image and options")
    return rollout.state_of(engine, created, running, note=why)


def _remove_unstarted(engine: Engine, service_id: str, name: str) -> None:
    """Remove a new service of which nothing runs; if that fails, say that it is left."""
    try:
        with engine_errors():
            engine.client(CHANGE_TIMEOUT).remove_service(service_id)  # type: ignore[no-untyped-call]  # the stubs leave it out
    except AnvylError as error:
        raise EngineError(
            f"the service `{name}` was created, nothing of it runs, and it could not be removed: {error.message}",
            hint=f"remove it later: docker service rm {name}",
        ) from error


@tool(
    say=[
        "scale {name} to {replicas}",
        "scale service {name} to {replicas}",
        "scale {name} to {replicas} replicas",
        "keep {replicas} of {name} running",
        "keep {replicas} replicas of {name} running across the fleet",
        "keep {replicas} of {name} running across the fleet",
        "set the replicas of {name} to {replicas}",
    ],
    about="scale",
    changes=True,
    seconds=120,
    rare=True,
)
def scale_service(name: ServiceName, replicas: Replicas, engine: Engine, progress: Progress) -> ServiceState:
    """Set how many replicas of a service the Swarm keeps running."""
    require_manager(engine)
    service = services.find_service(engine, name)
    if services.replicas_of(service["Spec"]) is None:
        raise Conflict(f"`{name}` has one task on each node; it cannot be scaled", hint="drain nodes, or remove it")
    spec = {**service["Spec"], "Mode": {"Replicated": {"Replicas": replicas}}}
    rollout.replace(engine, service, spec)
    running, why = rollout.wait_until_running(engine, service["ID"], progress)
    return rollout.state_of(engine, service["ID"], running, note=why)


@tool(
    say=[
        "update service {name} to {image}",
        "update service {name}",
        "restart service {name}",
        "roll out {image} to service {name}",
    ],
    about="rolling update",
    changes=True,
    seconds=300,
    rare=True,
)
def update_service(
    name: ServiceName,
    engine: Engine,
    progress: Progress,
    image: Annotated[
        str, Field(description="new one; empty: the same, restarted", json_schema_extra={"x-uses": "image"})
    ] = "",
    env: Annotated[Strings, Field(description="KEY=value to set")] = [],
) -> ServiceState:
    """Replace the replicas of a service one by one; if a new one does not stay up, the Swarm goes back by itself."""
    require_manager(engine)
    service = services.find_service(engine, name)
    if image or env:
        service_spec.require_right(engine, service["Spec"], name)
    rollout.replace(engine, service, service_spec.updated_spec(service["Spec"], image=image, env=env), image=image)
    return _watch_update(engine, service, progress)


@tool(
    say=["roll back service {name}", "rollback service {name}", "undo the update of service {name}"],
    about="roll back",
    changes=True,
    seconds=300,
    rare=True,
)
def rollback_service(name: ServiceName, engine: Engine, progress: Progress) -> ServiceState:
    """Bring back what a service ran before its last update."""
    require_manager(engine)
    service = services.find_service(engine, name)
    previous = service.get("PreviousSpec")
    if not isinstance(previous, dict):
        raise Conflict(f"`{name}` has no earlier version to go back to")
    service_spec.require_right(engine, previous, name)
    with engine_errors(doing=f"to roll back `{name}`"):
        engine.client(CHANGE_TIMEOUT).replace_service(
            service["ID"], int(service["Version"]["Index"]), service["Spec"], rollback=True
        )
    return _watch_update(engine, service, progress, going_back=True)


def _watch_update(
    engine: Engine, service: dict[str, Any], progress: Progress, *, going_back: bool = False
) -> ServiceState:
    number, name = str(service["ID"]), services.service_name(service)
    running, ended, why = rollout.wait_for_update(engine, number, rollout.started_at(service), progress)
    reason = f"a new replica did not stay up{f': {why}' if why else ''}"
    if ended == "rollback completed" and not going_back:
        raise Conflict(f"`{name}` runs as before: {reason}", hint="see get_service_logs, then try again")
    if "paused" in ended:
        raise Conflict(
            f"`{name}` is half changed, {ended}: {reason}",
            hint="see get_service_info; update_service goes on, rollback_service goes back",
        )
    return rollout.state_of(engine, number, running, update=ended)


@tool(
    say=["remove service {name}", "delete service {name}", "service rm {name}"],
    destroys=True,
    seconds=60,
    rare=True,
)
def remove_service(name: ServiceName, engine: Engine) -> ServiceState:
    """Remove a service of the Swarm and all its replicas."""
    require_manager(engine)
    service = services.find_service(engine, name)
    with engine_errors(doing=f"to remove the service `{name}`"):
        engine.client(CHANGE_TIMEOUT).remove_service(service["ID"])  # type: ignore[no-untyped-call]  # the stubs leave it out
    spec = service["Spec"]
    return ServiceState(
        id=service["ID"][:12],
        name=services.service_name(service),
        image=services.image_of(spec),
        running=0,
        replicas=0,
        removed=True,
    )


@tool(
    say=["drain node {name}", "drain {name}", "move everything off node {name}", "evacuate node {name}"],
    about="drain",
    changes=True,
    seconds=120,
    rare=True,
)
def drain_node(name: NodeName, engine: Engine, progress: Progress) -> NodeState:
    """Move all replicas off a machine of the Swarm, and give it no new ones."""
    require_manager(engine)
    node = nodes.find_node(engine, name)
    nodes.set_node(engine, node["ID"], Availability="drain")
    return NodeState(
        id=node["ID"][:12],
        name=nodes.node_name(node),
        availability="drain",
        left=rollout.wait_until_empty(engine, node["ID"], progress),
    )


@tool(
    say=["activate node {name}", "activate {name}", "undrain node {name}", "put node {name} back"],
    about="undrain",
    changes=True,
    rare=True,
)
def activate_node(name: NodeName, engine: Engine) -> NodeState:
    """Let a drained machine of the Swarm take replicas again."""
    require_manager(engine)
    node = nodes.find_node(engine, name)
    nodes.set_node(engine, node["ID"], Availability="active")
    return NodeState(id=node["ID"][:12], name=nodes.node_name(node), availability="active")
