"""Convert the engine's descriptions of containers to the results of our tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.redaction.redact_env import redact_environment
from anvyl_mcp.server.containers.problems import ExpectedState
from anvyl_mcp.server.engine import timestamps
from anvyl_mcp.server.engine.engine import COMPOSE_PROJECT, own_name
from anvyl_mcp.server.policy import object_names
from anvyl_mcp.server.policy.guardrails import is_protected
from anvyl_mcp.server.tool import Result, Row, Time

PROJECT = COMPOSE_PROJECT
"""Label with the Compose project of a container. Any caller may set it."""


class Container(Row):
    """One container of a list."""

    columns = ("name", "status", "image", "ports", "stack")

    id: str
    name: str
    image: str
    state: str
    status: str
    health: str
    ports: list[str]
    created: Time
    problem: str = ""
    expected: ExpectedState = ""
    stack: str = ""
    """The Compose application that it belongs to."""

    @property
    def status_shows_problem(self) -> bool:
        """Whether state and health already show the problem."""
        return self.problem in ("", self.health, self.state)


STATE_ORDER = ("restarting", "dead", "running", "paused")
"""Sort order of states: those that need attention first; all others come last."""

PLAIN_STATES = ("", "running", "exited", "stopped")
"""States that the engine's status line implies: `Up 2 hours`, `Exited (0) 2 hours ago`."""
ENDED = ("exited", "stopped", "dead")
MAX_HEALTH_OUTPUT = 500
"""Characters shown of a health check's output."""


def by_attention(containers: Sequence[Container]) -> list[Container]:
    """The containers that need attention first, then running ones; the others of a stack stay together."""
    best: dict[str, int] = {}
    for one in containers:
        group = one.stack or one.name
        best[group] = min(_state_order(one), best.get(group, len(STATE_ORDER)))

    def key(one: Container) -> tuple[bool, bool, int, str, int, str]:
        group = one.stack or one.name
        return one.health != "unhealthy", not one.problem, best[group], group, _state_order(one), one.name

    return sorted(containers, key=key)


def _state_order(container: Container) -> int:
    return STATE_ORDER.index(container.state) if container.state in STATE_ORDER else len(STATE_ORDER)


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
    oom_killed: bool = False
    restart_count: int = 0
    health_output: str = ""
    restart_policy: str
    command: str
    env: list[str]
    mounts: list[Mount]
    networks: list[str]
    labels: list[str]
    protected: bool = False

    def text(self) -> str:
        """Name, state and image first, then one line per setting, mount, variable and label."""
        created = f", created {text.format_age(self.created)}" if self.created else ""
        lines = [f"{self.name} ({self.id}): {self._summary()}", f"image {self.image}{created}"]
        if self.oom_killed:
            lines.append("it was killed because it ran out of memory")
        if self.protected:
            lines.append("its label anvyl.protect forbids every change through Anvyl")
        if self.health_output:
            lines.append(f"its health check printed: {self.health_output}")
        lines += [f"{name} {value}" for name, value in self._labelled_fields() if value]
        lines += [f"mount {mount.source} -> {mount.target} ({mount.mode})" for mount in self.mounts]
        lines += [f"env {entry}" for entry in self.env]
        return "\n".join(lines + [f"label {entry}" for entry in self.labels])

    def _summary(self) -> str:
        parts = [self.status, self.health]
        if self.state == "running" and self.started_at:
            parts[0] = f"running, started {text.format_age(self.started_at)}{self._restart_note()}"
        elif self.state in ENDED and self.finished_at:
            parts.append(text.format_age(self.finished_at))
        return ", ".join(filter(None, parts))

    def _restart_note(self) -> str:
        return f", restarted {text.plural(self.restart_count, 'time')}" if self.restart_count else ""

    def _labelled_fields(self) -> Iterator[tuple[str, str]]:
        yield "ports", ", ".join(self.ports)
        yield "networks", ", ".join(self.networks)
        yield "restart policy", self.restart_policy
        yield "command", self.command


def container_row(entry: Mapping[str, Any], *, problem: str = "", expected: ExpectedState = "") -> Container:
    """A container from an entry of the engine's list."""
    state, status = text.clean(entry["State"]), text.clean(entry["Status"])
    return Container(
        id=entry["Id"][:12],
        name=own_name(entry),
        image=text.clean(entry["Image"]),
        state=state,
        status=_status_with_state(status, state),
        health=_health_from_status(status),
        ports=_format_ports(entry["Ports"]),
        created=timestamps.to_iso(entry["Created"]),
        problem=problem,
        expected=expected,
        stack=stack_of(entry),
    )


def stack_of(entry: Mapping[str, Any]) -> str:
    """The Compose project of a listed container; empty if none, or if its label cannot be the name of one."""
    name = str((entry.get("Labels") or {}).get(PROJECT) or "")
    return name if object_names.is_valid("stack", name) else ""


def _status_with_state(status: str, state: str) -> str:
    """The engine's status line, with the state added if it is not implied, as in `Up 2 hours` of a paused container."""
    if not status:
        return state.capitalize()
    # Docker writes `Removal In Progress` for the state `removing`.
    return status if state in PLAIN_STATES or state[:5] in status.lower() else f"{status} ({state})"


def _health_from_status(status: str) -> str:
    """Health from the status line, as the list has no field for it: `Up 2 hours (unhealthy)`."""
    inside = status.rpartition("(")[2].removesuffix(")").removeprefix("health: ")
    return inside if inside in ("healthy", "unhealthy", "starting") else ""


def _format_ports(published: list[Mapping[str, Any]]) -> list[str]:
    """`8080->80`, once for IPv4 and IPv6; unpublished ports as `80`."""
    shown = []
    for port in published:
        protocol = "" if port["Type"] == "tcp" else f"/{text.clean(port['Type'])}"
        address = "" if port.get("IP") in (None, "", "0.0.0.0", "::") else f"{port['IP']}:"
        outer = f"{address}{port['PublicPort']}->" if port.get("PublicPort") else ""
        shown.append(f"{outer}{port['PrivatePort']}{protocol}")
    return sorted(set(shown))


def container_info(found: Mapping[str, Any], *, reveal: bool = False) -> ContainerInfo:
    """An inspected container in detail; `reveal` shows environment values that look secret."""
    state, config = found["State"], found["Config"]
    network, environment = found["NetworkSettings"], config["Env"]
    restarts = found["RestartCount"]
    return ContainerInfo(
        id=found["Id"][:12],
        name=found["Name"].lstrip("/"),
        image=text.clean(config["Image"]),
        state=text.clean(state["Status"]),
        status=_describe_state(state, restarts),
        health=_health(state),
        ports=_format_bindings(network["Ports"]),
        created=timestamps.to_iso(found["Created"]),
        started_at=timestamps.to_iso(state["StartedAt"]),
        finished_at=timestamps.to_iso(state["FinishedAt"]),
        exit_code=state["ExitCode"],
        oom_killed=bool(state.get("OOMKilled")),
        protected=is_protected(found),
        restart_count=restarts,
        health_output=_health_output(state),
        restart_policy=str(found["HostConfig"]["RestartPolicy"].get("Name") or "no"),
        command=text.clean(" ".join([*config["Entrypoint"], *config["Cmd"]])),
        env=[text.clean(entry) for entry in (environment if reveal else redact_environment(environment))],
        mounts=[
            Mount(
                source=text.clean(str(mount.get("Name") or mount["Source"])),
                target=text.clean(mount["Destination"]),
                mode="rw" if mount.get("RW") else "ro",
            )
            for mount in found["Mounts"]
        ],
        networks=sorted(f"{name} {one['IPAddress']}".strip() for name, one in network["Networks"].items()),
        labels=[text.clean(f"{key}={value}") for key, value in sorted(config["Labels"].items())],
    )


def _describe_state(state: Mapping[str, Any], restarts: int) -> str:
    """State with exit code, error and restart count.

    Docker sets `Running` also for containers that are paused or between two starts, so only `Status` is reliable.
    """
    status, code = text.clean(state["Status"]), state["ExitCode"]
    began, failed = timestamps.to_iso(state["StartedAt"]), text.clean(state["Error"]).strip()
    again = f", restarted {text.plural(restarts, 'time')}" if restarts else ""
    memory = ", killed: out of memory" if state.get("OOMKilled") else ""
    if status in ("running", "paused"):
        up = f"up since {began}" if began else "up"
        return f"{up}{again}" if status == "running" else f"paused, {up}{again}"
    if status == "restarting":
        return f"restarting, last exit code {code}{memory}{again}"
    if status in ENDED:
        return f"{status} with code {code}{memory}{f': {failed}' if failed else ''}{again}"
    return f"{status}: {failed}" if failed else status


def _health(state: Mapping[str, Any]) -> str:
    """Result of the health check; empty without a check or if the container is not running."""
    health = str(state["Health"]["Status"])
    return "" if health == "none" or state["Status"] not in ("running", "paused") else text.clean(health)


def _health_output(state: Mapping[str, Any]) -> str:
    """Last output of the health check on one line, after its exit code if it failed."""
    if not state["Health"]["Log"]:
        return ""
    last = state["Health"]["Log"][-1]
    printed = " ".join(text.clean(str(last.get("Output") or "")).split())
    if len(printed) > MAX_HEALTH_OUTPUT:
        printed = f"{printed[:MAX_HEALTH_OUTPUT]}…"
    code = last.get("ExitCode")
    ended = f"exit code {code}" if isinstance(code, int) and code else ""
    return ": ".join(filter(None, [ended, printed]))


def _format_bindings(ports: Mapping[str, list[Mapping[str, str]] | None]) -> list[str]:
    flat: list[Mapping[str, Any]] = []
    for inner, bindings in ports.items():
        number, _, protocol = inner.partition("/")
        for bound in bindings or [{}]:
            public = {"PublicPort": bound["HostPort"], "IP": bound.get("HostIp")} if bound.get("HostPort") else {}
            flat.append({"PrivatePort": number, "Type": protocol, **public})
    return _format_ports(flat)
