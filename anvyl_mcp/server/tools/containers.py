"""Containers on this host."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field

from anvyl_mcp import text
from anvyl_mcp.errors import AnvylError, EngineError
from anvyl_mcp.server import logs
from anvyl_mcp.server.engine import SLOW, Engine, own_name
from anvyl_mcp.server.run_options import RunOptions
from anvyl_mcp.server.secrets import mask
from anvyl_mcp.server.tool import ContainerName, Result, Row, Strings, Time, tool
from anvyl_mcp.server.translate import engine_errors

StopTimeout = Annotated[int, Field(description="seconds to stop by itself", ge=0, le=120)]


class Container(Row):
    """One container, from one entry of the engine's list."""

    columns = ("name", "status", "image", "ports")

    id: str
    name: str
    image: str
    state: str
    status: str
    health: str
    ports: list[str]
    created: Time


class Containers(Result):
    """Containers, those that need attention first."""

    containers: list[Container]
    total: int
    more: int = 0


class Mount(Row):
    """A folder or volume of a container."""

    source: str
    target: str
    mode: str


class ContainerInfo(Result):
    """One container in detail."""

    id: str
    name: str
    image: str
    state: str
    status: str
    health: str
    ports: list[str]
    created: Time
    started_at: Time
    exit_code: int
    restart_policy: str
    command: str
    env: list[str]
    mounts: list[Mount]
    networks: list[str]
    labels: list[str]


class ContainerState(Result):
    """A container after a change."""

    id: str
    name: str
    image: str
    state: str

    def text(self) -> str:
        """One line: name and state."""
        return f"{self.name} is {self.state}"


class Removed(Result):
    """A container that is gone."""

    id: str
    name: str
    removed: bool = True

    def text(self) -> str:
        """One line."""
        return f"{self.name} is removed"


class Logs(Result):
    """The last lines a container wrote."""

    lines: list[str]
    truncated: bool
    next_since: str

    def text(self) -> str:
        """The lines as they are."""
        head = ["… earlier lines left out; raise `tail` or use `grep`"] if self.truncated else []
        return "\n".join(head + self.lines) or "(nothing logged)"


@tool(say=["list containers", "show containers", "what is running", "ps"])
def list_containers(
    engine: Engine,
    all: Annotated[bool, Field(description="stopped ones too")] = False,
    name: Annotated[str, Field(description="part of the name")] = "",
    label: Annotated[str, Field(description="`key` or `key=value`")] = "",
    limit: Annotated[int, Field(ge=1, le=1000)] = 100,
) -> Containers:
    """List containers with their state, image and ports."""
    entries = engine.containers(all=all, label=label)
    found = [_listed(entry) for entry in entries if name.lower() in own_name(entry).lower()]
    found.sort(key=lambda one: (one.health != "unhealthy", one.state not in ("restarting", "dead"), one.name))
    return Containers(containers=found[:limit], total=len(found), more=max(0, len(found) - limit))


@tool(say=["inspect {name}", "show details of {name}", "info about {name}"], untrusted=True)
def get_container_info(name: ContainerName, engine: Engine) -> ContainerInfo:
    """Show one container in detail: command, environment, mounts, networks, exit code."""
    return _info(engine.container(name))


@tool(say=["start {name}"], changes=True, seconds=60)
def start_container(name: ContainerName, engine: Engine) -> ContainerState:
    """Start a stopped container."""
    container = engine.container(name)
    with engine_errors(missing=lambda: engine.no_container(name), doing=f"to start `{name}`"):
        engine.client(SLOW).start(container["Id"])
    return _state(engine, container)


@tool(say=["stop {name}", "shut down {name}"], changes=True, seconds=SLOW)
def stop_container(name: ContainerName, engine: Engine, timeout: StopTimeout = 10) -> ContainerState:
    """Stop a running container."""
    container = engine.container(name)
    with engine_errors(missing=lambda: engine.no_container(name), doing=f"to stop `{name}`"):
        engine.client(SLOW).stop(container["Id"], timeout=timeout)
    return _state(engine, container)


@tool(say=["restart {name}"], changes=True, seconds=SLOW)
def restart_container(name: ContainerName, engine: Engine) -> ContainerState:
    """Restart a container."""
    container = engine.container(name)
    with engine_errors(missing=lambda: engine.no_container(name), doing=f"to restart `{name}`"):
        engine.client(SLOW).restart(container["Id"], timeout=10)
    return _state(engine, container)


@tool(say=["remove {name}", "delete {name}"], destroys=True, seconds=60)
def remove_container(
    name: ContainerName,
    engine: Engine,
    force: Annotated[bool, Field(description="also when it runs")] = False,
) -> Removed:
    """Remove a container for good."""
    container = engine.container(name)
    with engine_errors(missing=lambda: engine.no_container(name), doing=f"to remove `{name}`"):
        engine.client(SLOW).remove_container(container["Id"], force=force)
    return Removed(id=container["Id"][:12], name=container["Name"].lstrip("/"))


@tool(
    say=[
        "run image {image}",
        "create container {name} from {image}",
        "run {image} as {name}",
        "run image {image} as {name}",
    ],
    changes=True,
    seconds=600,
)
def create_container(
    image: Annotated[str, Field(description="like nginx:1.27", min_length=1)],
    engine: Engine,
    name: Annotated[str, Field(description="name of the new container")] = "",
    command: Annotated[str, Field(description="instead of the image's own")] = "",
    ports: Annotated[Strings, Field(description="like 8080:80")] = [],
    env: Annotated[Strings, Field(description="like KEY=value")] = [],
    volumes: Annotated[Strings, Field(description="like /data:/data:ro")] = [],
    labels: Annotated[Strings, Field(description="like key=value")] = [],
    restart: Annotated[str, Field(description="no, always, unless-stopped or on-failure")] = "",
    network: str = "",
    memory: Annotated[str, Field(description="like 512m")] = "",
    cpus: Annotated[str, Field(description="like 1.5")] = "",
) -> ContainerState:
    """Create a container from an image and start it."""
    options = RunOptions.parse(
        ports=ports,
        env=env,
        volumes=volumes,
        labels=labels,
        command=command,
        restart=restart,
        network=network,
        memory=memory,
        cpus=cpus,
    )
    created = options.create(engine, image, name)
    try:
        with engine_errors(doing=f"to start `{name or image}`"):
            engine.client(SLOW).start(created)
    except AnvylError as error:
        _take_back(engine, created, error)
        raise
    return _state(engine, {"Id": created})


@tool(say=["show logs of {name}", "logs {name}"], untrusted=True, seconds=20)
def get_container_logs(
    name: ContainerName,
    engine: Engine,
    tail: Annotated[int, Field(description="last lines", ge=1, le=5000)] = 100,
    since: Annotated[str, Field(description="like 10m or a time")] = "",
    grep: Annotated[str, Field(description="only lines with this text")] = "",
) -> Logs:
    """Show the last lines a container logged."""
    read = logs.read(engine, engine.container(name), tail=tail, since=since, grep=grep)
    return Logs(lines=read.lines, truncated=read.truncated, next_since=read.next_since)


def _listed(entry: Mapping[str, Any]) -> Container:
    return Container(
        id=entry["Id"][:12],
        name=own_name(entry),
        image=text.clean(entry["Image"]),
        state=entry["State"],
        status=entry["Status"],
        health=_health_in(entry["Status"]),
        ports=_ports(entry.get("Ports") or []),
        created=datetime.fromtimestamp(entry["Created"], UTC).isoformat(),
    )


def _health_in(status: str) -> str:
    """The list has no field for health; its status line does: `Up 2 hours (unhealthy)`."""
    inside = status.rpartition("(")[2].removesuffix(")").removeprefix("health: ")
    return inside if inside in ("healthy", "unhealthy", "starting") else ""


def _ports(published: list[Mapping[str, Any]]) -> list[str]:
    """`8080->80`, once for IPv4 and IPv6; unpublished ones as `80`."""
    shown = []
    for port in published:
        protocol = "" if port["Type"] == "tcp" else f"/{port['Type']}"
        address = "" if port.get("IP") in (None, "", "0.0.0.0", "::") else f"{port['IP']}:"
        outer = f"{address}{port['PublicPort']}->" if port.get("PublicPort") else ""
        shown.append(f"{outer}{port['PrivatePort']}{protocol}")
    return sorted(set(shown))


def _info(found: Mapping[str, Any]) -> ContainerInfo:
    state, config = found["State"], found["Config"]
    policy = found["HostConfig"].get("RestartPolicy") or {}
    network = found["NetworkSettings"]
    return ContainerInfo(
        id=found["Id"][:12],
        name=found["Name"].lstrip("/"),
        image=text.clean(config.get("Image", "")),
        state=state["Status"],
        status=_status(state),
        health=(state.get("Health") or {}).get("Status", ""),
        ports=_bound_ports(network.get("Ports") or {}),
        created=_time(found["Created"]),
        started_at=_time(state.get("StartedAt", "")),
        exit_code=state.get("ExitCode", 0),
        restart_policy=policy.get("Name") or "no",
        command=text.clean(" ".join([*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])])),
        env=[text.clean(entry) for entry in mask(config.get("Env") or [])],
        mounts=[
            Mount(
                source=mount.get("Name") or mount.get("Source", ""),
                target=mount["Destination"],
                mode="rw" if mount.get("RW") else "ro",
            )
            for mount in found.get("Mounts") or []
        ],
        networks=sorted(f"{name} {one['IPAddress']}".strip() for name, one in (network.get("Networks") or {}).items()),
        labels=[text.clean(f"{key}={value}") for key, value in sorted((config.get("Labels") or {}).items())],
    )


def _status(state: Mapping[str, Any]) -> str:
    if state.get("Running"):
        return f"up since {_time(state['StartedAt'])}"
    if state.get("OOMKilled"):
        return "killed: out of memory"
    if state.get("Error"):
        return f"{state['Status']}: {text.clean(state['Error'])}"
    return f"{state['Status']} with code {state.get('ExitCode', 0)}"


def _bound_ports(ports: Mapping[str, list[Mapping[str, str]] | None]) -> list[str]:
    flat: list[Mapping[str, Any]] = []
    for inner, bindings in ports.items():
        number, _, protocol = inner.partition("/")
        for bound in bindings or [{}]:
            public = {"PublicPort": bound["HostPort"], "IP": bound.get("HostIp")} if bound.get("HostPort") else {}
            flat.append({"PrivatePort": number, "Type": protocol, **public})
    return _ports(flat)


def _time(engine_time: str) -> str:
    """Docker's nanosecond times as ISO 8601 UTC seconds; its zero time as empty."""
    if not engine_time or engine_time.startswith("0001-"):
        return ""
    return datetime.fromisoformat(engine_time[:19]).replace(tzinfo=UTC).isoformat()


def _state(engine: Engine, container: Mapping[str, Any]) -> ContainerState:
    now = engine.inspect(container["Id"])
    return ContainerState(
        id=now["Id"][:12], name=now["Name"].lstrip("/"), image=now["Config"]["Image"], state=now["State"]["Status"]
    )


def _take_back(engine: Engine, created: str, error: BaseException) -> None:
    """Remove a container that could not start; when that fails too, say what is left."""
    try:
        with engine_errors():
            engine.client(SLOW).remove_container(created, force=True)
    except AnvylError as second:
        raise EngineError(
            f"the container `{created[:12]}` was created, could not start, and could not be removed: {second.message}",
            hint=f"remove it when the engine answers again: docker rm -f {created[:12]}",
        ) from error
