"""Compose projects of this host, read from the labels of their containers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NotFound, did_you_mean
from anvyl_mcp.server.containers.views import PROJECT, stack_of
from anvyl_mcp.server.engine.compat import labels
from anvyl_mcp.server.engine.engine import Engine, own_name
from anvyl_mcp.server.policy import object_names
from anvyl_mcp.server.policy.guardrails import is_hidden, is_protected

LABEL = "com.docker.compose."
SERVICE = f"{LABEL}service"
NUMBER = f"{LABEL}container-number"
ONE_OFF = f"{LABEL}oneoff"
CONFIG_HASH = f"{LABEL}config-hash"
WORKING_DIR = f"{LABEL}project.working_dir"
CONFIG_FILES = f"{LABEL}project.config_files"
ENV_FILES = f"{LABEL}project.environment_file"
"""Labels that Compose sets on the containers of a project. Any caller may set them: their values are not trusted."""

RUNNING = ("running", "restarting", "paused")


@dataclass(frozen=True, slots=True)
class StackContainer:
    """One container of a project."""

    id: str
    name: str
    service: str
    state: str
    status: str
    image: str
    image_id: str
    config_hash: str
    one_off: bool
    protected: bool
    """Whether its label forbids changes."""
    hidden: bool
    """Whether its label forbids reading its log and details."""

    @property
    def running(self) -> bool:
        """Whether its process runs, or is about to be started again."""
        return self.state in RUNNING


@dataclass(frozen=True, slots=True)
class Project:
    """A Compose project: its containers, and where its files were when it was deployed."""

    name: str
    containers: tuple[StackContainer, ...] = ()
    working_dir: str = ""
    config_files: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()

    @property
    def services(self) -> dict[str, list[StackContainer]]:
        """The containers of each service by name, without those of `docker compose run`."""
        found: dict[str, list[StackContainer]] = {}
        for one in self.containers:
            if not one.one_off:
                found.setdefault(one.service, []).append(one)
        return dict(sorted(found.items()))

    @property
    def running(self) -> int:
        """Number of its containers that run."""
        return sum(one.running for containers in self.services.values() for one in containers)

    @property
    def total(self) -> int:
        """Number of its containers."""
        return sum(map(len, self.services.values()))


def service_of(entry: Mapping[str, Any]) -> str:
    """The service of a listed container."""
    return text.clean(str((entry.get("Labels") or {}).get(SERVICE) or ""))


def find_projects(engine: Engine) -> dict[str, Project]:
    """All projects that have containers, by name."""
    return projects_in(engine.containers(all=True, label=PROJECT))


def find_project(engine: Engine, name: str) -> Project:
    """A project by its name.

    Raises:
        NotFound: no container belongs to it; the hint lists similar names.
    """
    found = find_projects(engine)
    if name not in found:
        raise missing_stack(name, found)
    return found[name]


def find_stack(engine: Engine, name: str) -> dict[str, Any]:
    """The name and the labels of a stack that has containers; those of a container count for the whole stack.

    Raises:
        NotFound: no container belongs to it.
    """
    entries = [one for one in engine.containers(all=True, label=PROJECT) if stack_of(one) == name]
    if not entries:
        raise missing_stack(name, find_projects(engine))
    merged: dict[str, str] = {}
    for entry in entries:
        merged |= labels(entry["Labels"])
    return {"Name": name, "Labels": merged}


def missing_stack(name: str, known: Iterable[str]) -> NotFound:
    """The error for a stack that does not exist."""
    return NotFound(
        f"there is no stack `{object_names.shorten(name)}` on this host",
        hint=did_you_mean(name, known) or "there are no stacks on this host",
    )


def projects_in(entries: Sequence[Mapping[str, Any]]) -> dict[str, Project]:
    """The projects of listed containers."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if name := stack_of(entry):
            grouped.setdefault(name, []).append(entry)
    return {name: _project(name, members) for name, members in sorted(grouped.items())}


def _project(name: str, entries: Sequence[Mapping[str, Any]]) -> Project:
    # All containers have the labels of the deployment that created them; the newest one counts.
    newest = labels(max(entries, key=lambda entry: _created(entry))["Labels"])
    containers = sorted((_container(entry) for entry in entries), key=lambda one: (one.service, one.name))
    folder = _path(newest.get(WORKING_DIR, ""))
    return Project(
        name,
        tuple(containers),
        working_dir=folder,
        config_files=_paths(folder, newest.get(CONFIG_FILES, "")),
        env_files=_paths(folder, newest.get(ENV_FILES, "")),
    )


def _container(entry: Mapping[str, Any]) -> StackContainer:
    found = labels(entry["Labels"])
    return StackContainer(
        id=str(entry["Id"]),
        name=text.clean(own_name(entry)),
        service=service_of(entry),
        state=text.clean(entry["State"]),
        status=text.clean(entry["Status"]),
        image=text.clean(entry["Image"]),
        image_id=str(entry.get("ImageID") or ""),
        config_hash=found.get(CONFIG_HASH, ""),
        one_off=found.get(ONE_OFF, "").casefold() == "true",
        protected=is_protected(entry),
        hidden=is_hidden(entry),
    )


def _created(entry: Mapping[str, Any]) -> float:
    created = entry.get("Created")
    return float(created) if isinstance(created, int | float) else 0.0


def _paths(folder: str, value: str) -> tuple[str, ...]:
    """Absolute paths of a label. Compose writes `-` for standard input; Compose 1 wrote paths from its folder."""
    parts = [part.strip() for part in value.split(",") if part.strip() not in ("", "-")]
    return tuple(path for part in parts if (path := _path(str(PurePosixPath(folder, part)))))


def _path(value: str) -> str:
    """An absolute path without control characters, or an empty string."""
    return value if value.isprintable() and PurePosixPath(value).is_absolute() else ""
