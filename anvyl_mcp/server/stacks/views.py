"""Results about stacks: a row of the list, one stack in detail, and its deployed versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from anvyl_mcp.core import text
from anvyl_mcp.server.containers.problems import ExpectedState, find_problems
from anvyl_mcp.server.containers.views import container_row
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.stacks.projects import Project, StackContainer
from anvyl_mcp.server.stacks.version_store import StackVersion
from anvyl_mcp.server.tool import Result, Row, Time

StackState = Literal["running", "partial", "stopped", "removed"]


class Stack(Row):
    """One stack of a list."""

    columns = ("name", "status", "services", "version")

    name: str
    state: StackState
    status: str
    services: list[str]
    running: int
    total: int
    problem: str = ""
    version: str = ""
    """Number of the version that was deployed through Anvyl; empty if it was deployed another way."""


class ServiceRow(Row):
    """One service of a stack."""

    service: str
    state: str
    status: str
    health: str = ""
    image: str
    ports: list[str]
    containers: list[str]
    problem: str = ""


class VersionRow(Row):
    """One deployed version of a stack."""

    version: str
    deployed: Time
    by: str
    outcome: str
    note: str = ""
    images: list[str]


class StackInfo(Result):
    """One stack in detail."""

    name: str
    state: StackState
    status: str
    services: list[ServiceRow]
    version: str = ""
    versions: list[VersionRow] = Field(default=[])
    networks: list[str] = Field(default=[])
    volumes: list[str] = Field(default=[])
    working_dir: str = ""
    files: list[str] = Field(default=[])
    compose: str = ""
    """The Compose file of the current version, if it was asked for."""

    def text(self) -> str:
        """The status first, then a line for each service and version."""
        lines = [f"{self.name}: {self.status}"]
        for one in self.services:
            words = [one.service, one.problem or one.status, one.image, " ".join(one.ports)]
            lines.append("  ".join(filter(None, words)))
        for what, names in (("networks", self.networks), ("volumes", self.volumes), ("files", self.files)):
            if names:
                lines.append(f"{what} {', '.join(names)}")
        for version in self.versions:
            note = f", {version.note}" if version.note else ""
            age = text.format_age(version.deployed)
            lines.append(f"version {version.version}: {version.outcome} {age} by {version.by}{note}")
        return "\n".join([*lines, *([self.compose] if self.compose else [])])


def stack_row(project: Project, problems: Mapping[str, str], version: StackVersion | None) -> Stack:
    """A row for a project; `problems` by container id."""
    found = [f"{one.name} {problems[one.id]}" for one in project.containers if problems.get(one.id)]
    return Stack(
        name=project.name,
        state=stack_state(project),
        status=stack_status(project, problems),
        services=list(project.services),
        running=project.running,
        total=project.total,
        problem="; ".join(found),
        version=str(version.number) if version else "",
    )


def removed_row(name: str, version: StackVersion) -> Stack:
    """A row for a stack without containers, of which only versions are left."""
    return Stack(name=name, state="removed", status="removed", services=sorted(version.services), running=0, total=0)


def stack_state(project: Project) -> StackState:
    """The state of a stack as a whole."""
    if not project.total:
        return "removed"
    if not project.running:
        return "stopped"
    return "running" if project.running == project.total else "partial"


def stack_status(project: Project, problems: Mapping[str, str]) -> str:
    """The state in words: `running`, `2 of 3 running`, with the number of containers that have a problem."""
    state = stack_state(project)
    words = f"{project.running} of {project.total} running" if state == "partial" else str(state)
    ill = sum(bool(problems.get(one.id)) for one in project.containers if not one.one_off)
    return f"{words}, {text.plural(ill, 'problem')}" if ill else words


def service_rows(
    engine: Engine, project: Project, entries: Sequence[Mapping[str, Any]], expected: Mapping[str, ExpectedState]
) -> tuple[list[ServiceRow], dict[str, str]]:
    """A row for each service, and the problems by container id. `entries`: the listed containers of the project."""
    problems = find_problems(engine, entries, expected)
    by_id = {str(entry["Id"]): entry for entry in entries}
    rows = [_service_row(name, found, by_id, problems) for name, found in project.services.items()]
    return rows, problems


def _service_row(
    service: str,
    containers: Sequence[StackContainer],
    entries: Mapping[str, Mapping[str, Any]],
    problems: Mapping[str, str],
) -> ServiceRow:
    """The row of a service shows the container that needs attention most."""
    worst = min(containers, key=lambda one: (not problems.get(one.id), one.running, one.name))
    shown = container_row(entries[worst.id])
    running = sum(one.running for one in containers)
    status = shown.status if len(containers) == 1 else f"{running} of {len(containers)} running"
    return ServiceRow(
        service=service,
        state=shown.state,
        status=status,
        health=shown.health,
        image=shown.image,
        ports=sorted({port for one in containers for port in container_row(entries[one.id]).ports}),
        containers=[one.name for one in containers],
        problem=text.clean(problems.get(worst.id, "")),
    )


def version_row(version: StackVersion, current: StackVersion | None) -> VersionRow:
    """A row for a version. Its file and variables are left out: they contain secrets."""
    images = [f"{name}={_shown_image(version, name)}" for name in sorted(version.services)]
    outcome = "running" if version == current and version.outcome == "deployed" else str(version.outcome)
    return VersionRow(
        version=str(version.number),
        deployed=datetime.fromtimestamp(version.at, UTC).isoformat(timespec="seconds"),
        by=text.clean(version.who),
        outcome="interrupted" if version.outcome == "pending" else outcome,
        note=text.clean(version.note),
        images=[text.clean(one) for one in images],
    )


def _shown_image(version: StackVersion, service: str) -> str:
    return version.images.get(service) or str(version.services[service].get("image") or "")
