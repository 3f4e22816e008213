"""Containers as the engine describes them, turned into what we say of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from anvyl_mcp import text
from anvyl_mcp.server.container_problems import Expected
from anvyl_mcp.server.engine import own_name
from anvyl_mcp.server.secrets import mask
from anvyl_mcp.server.tool import Result, Row, Time


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
    problem: str = ""
    expected: Expected = ""

    @property
    def shows_problem(self) -> bool:
        """Whether nothing is wrong but what state and health say."""
        return self.problem in ("", self.health, self.state)


ATTENTION = ("restarting", "dead", "running", "paused")
"""States in the order in which a person wants to hear of them; all others come last."""


def attention(container: Container) -> tuple[bool, bool, int, str]:
    """What to sort by: those that need attention first, then those that run."""
    known = ATTENTION.index(container.state) if container.state in ATTENTION else len(ATTENTION)
    return container.health != "unhealthy", not container.problem, known, container.name


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
    finished_at: Time
    exit_code: int
    restart_policy: str
    command: str
    env: list[str]
    mounts: list[Mount]
    networks: list[str]
    labels: list[str]

    def text(self) -> str:
        """What it is and how it is first; then one line for each thing of which there may be many."""
        lines = [f"{self.name} ({self.id}): {self._how()}", f"image {self.image}, created {text.ago(self.created)}"]
        lines += [f"{name} {value}" for name, value in self._parts() if value]
        lines += [f"mount {mount.source} -> {mount.target} ({mount.mode})" for mount in self.mounts]
        lines += [f"env {entry}" for entry in self.env]
        return "\n".join(lines + [f"label {entry}" for entry in self.labels])

    def _how(self) -> str:
        if self.state == "running":
            parts = ["running", f"started {text.ago(self.started_at)}", self.health]
        else:
            parts = [self.status or self.state, text.ago(self.finished_at) if self.finished_at else ""]
        return ", ".join(filter(None, parts))

    def _parts(self) -> Iterator[tuple[str, str]]:
        yield "ports", ", ".join(self.ports)
        yield "networks", ", ".join(self.networks)
        yield "restart policy", self.restart_policy
        yield "command", self.command


def listed(entry: Mapping[str, Any], *, problem: str = "", expected: Expected = "") -> Container:
    """One entry of the engine's list, with what is known of it besides."""
    return Container(
        id=entry["Id"][:12],
        name=own_name(entry),
        image=text.clean(entry["Image"]),
        state=entry["State"],
        status=entry["Status"],
        health=_health_in(entry["Status"]),
        ports=_ports(entry.get("Ports") or []),
        created=datetime.fromtimestamp(entry["Created"], UTC).isoformat(),
        problem=problem,
        expected=expected,
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


def detailed(found: Mapping[str, Any], *, reveal: bool = False) -> ContainerInfo:
    """What the engine says when asked for one; `reveal` shows environment values that look secret."""
    state, config = found["State"], found["Config"]
    policy = found["HostConfig"].get("RestartPolicy") or {}
    network = found["NetworkSettings"]
    environment = config.get("Env") or []
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
        finished_at=_time(state.get("FinishedAt") or ""),
        exit_code=state.get("ExitCode", 0),
        restart_policy=policy.get("Name") or "no",
        command=text.clean(" ".join([*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])])),
        env=[text.clean(entry) for entry in (environment if reveal else mask(environment))],
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
    ended = state["Status"] in ("exited", "dead")
    return f"{state['Status']} with code {state.get('ExitCode', 0)}" if ended else str(state["Status"])


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
