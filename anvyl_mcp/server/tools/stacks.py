"""Stacks: applications of several containers, described by a Compose file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

from pydantic import Field

from anvyl_mcp.core.errors import ConfigInvalid
from anvyl_mcp.server.containers.problems import find_problems
from anvyl_mcp.server.containers.undo_log import UndoLog
from anvyl_mcp.server.engine import lookup
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.stacks.projects import PROJECT, Project, missing_stack, projects_in, stack_of
from anvyl_mcp.server.stacks.version_store import StackVersion, VersionStore
from anvyl_mcp.server.stacks.views import (
    Stack,
    StackInfo,
    removed_row,
    service_rows,
    stack_row,
    stack_state,
    stack_status,
    version_row,
)
from anvyl_mcp.server.tool import Result, tool

StackName = Annotated[str, Field(description="stack", min_length=1, json_schema_extra={"x-names": "stack"})]
"""A stack that must exist. `x-names` lets a caller find the host that has it."""


class Stacks(Result):
    """Stacks, those with problems first."""

    stacks: list[Stack]
    total: int
    more: int = 0

    def text(self) -> str:
        """A table, then the problems."""
        return "\n".join([super().text(), *(f"problem: {one.problem}" for one in self.stacks if one.problem)])


@tool(
    say=["list stacks", "show stacks", "which stacks are there"],
    about="stack, compose, docker compose, project, application, app",
    seconds=20,
)
def list_stacks(
    engine: Engine,
    store: VersionStore,
    undo_log: UndoLog,
    all: Annotated[bool, Field(description="removed ones too, which revert_stack brings back")] = False,
    limit: Annotated[int, Field(ge=1, le=1000)] = 100,
) -> Stacks:
    """List the Compose applications on this host with their services."""
    entries = engine.containers(all=True, label=PROJECT)
    problems = find_problems(engine, entries, undo_log.expected_states())
    projects = projects_in(entries)
    found = [stack_row(one, problems, _current(store, one.name)) for one in projects.values()]
    if all:
        found += [removed_row(name, _current(store, name)) for name in store.stacks() if name not in projects]
    found.sort(key=lambda one: (not one.problem, one.state == "removed", one.name))
    return Stacks(stacks=found[:limit], total=len(found), more=max(0, len(found) - limit))


@tool(say=["show stack {name}", "inspect stack {name}"], about="stack, compose, service, version, deployed", seconds=20)
def get_stack_info(name: StackName, engine: Engine, store: VersionStore, undo_log: UndoLog) -> StackInfo:
    """Show one stack: services, images, ports, networks, volumes and deployed versions."""
    entries = [one for one in engine.containers(all=True, label=PROJECT) if stack_of(one) == name]
    versions = store.versions(name)
    if not entries and not versions:
        raise missing_stack(name, projects_in(engine.containers(all=True, label=PROJECT)))
    project = projects_in(entries).get(name, Project(name))
    services, problems = service_rows(engine, project, entries, undo_log.expected_states())
    current = store.current(name) if entries else None
    return StackInfo(
        name=name,
        state=stack_state(project),
        status=stack_status(project, problems),
        services=services,
        version=str(current.number) if current else "",
        versions=[version_row(one, current) for one in versions],
        networks=_named(lookup.list_networks(engine), name),
        volumes=_named(lookup.list_volumes(engine), name),
        working_dir=project.working_dir,
        files=list(project.config_files),
    )


def _named(objects: list[dict[str, Any]], stack: str) -> list[str]:
    """Names of the networks or volumes that Compose created for a stack."""
    return sorted(str(one["Name"]) for one in objects if _label(one) == stack)


def _label(found: Mapping[str, Any]) -> str:
    return str((found.get("Labels") or {}).get(PROJECT) or "")


def _current(store: VersionStore, name: str) -> StackVersion | None:
    """The version of a stack for a list, which does not fail because of one damaged file."""
    with suppress(ConfigInvalid):
        return store.current(name)
    return None
