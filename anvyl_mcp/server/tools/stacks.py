"""Stacks: applications of several containers, described by a Compose file."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Annotated, Any

from pydantic import Field

from anvyl_mcp.core.errors import ConfigInvalid, Conflict, Denied
from anvyl_mcp.server.containers.own_container import check_not_own
from anvyl_mcp.server.containers.problems import find_problems
from anvyl_mcp.server.containers.undo_log import ChangeKind, UndoLog
from anvyl_mcp.server.containers.views import PROJECT, stack_of
from anvyl_mcp.server.engine import lookup
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.logs import reader
from anvyl_mcp.server.engine.stats import SampleCache, measure_usage
from anvyl_mcp.server.progress import Progress, StepProgress
from anvyl_mcp.server.stacks import lifecycle
from anvyl_mcp.server.stacks.configuration import Configuration, StackFile
from anvyl_mcp.server.stacks.deployment import Deployer, Plan, describe_changes, unmoved_images
from anvyl_mcp.server.stacks.difference import ServiceChange
from anvyl_mcp.server.stacks.projects import Project, find_project, find_projects, missing_stack, projects_in
from anvyl_mcp.server.stacks.stack_rights import ContainerTools
from anvyl_mcp.server.stacks.version_store import StackVersion, VersionStore
from anvyl_mcp.server.stacks.views import (
    ServiceRow,
    Stack,
    StackInfo,
    removed_row,
    service_rows,
    stack_row,
    stack_state,
    stack_status,
    version_row,
)
from anvyl_mcp.server.tool import CURRENT_TOOL, Result, Strings, Tool, tool
from anvyl_mcp.server.tools import containers
from anvyl_mcp.server.tools import volumes as volume_tools

StackName = Annotated[str, Field(min_length=1, json_schema_extra={"x-names": "stack"})]
"""A stack that must exist. `x-names` lets a caller find the host that has it."""
NewStackName = Annotated[str, Field(min_length=1, json_schema_extra={"x-makes": "stack"})]
DryRun = Annotated[bool, Field(description="only show the changes", json_schema_extra={"x-preview": True})]
CONTAINER_TOOLS = ContainerTools(
    create=containers.create_container,
    start=containers.start_container,
    stop=containers.stop_container,
    restart=containers.restart_container,
    remove=containers.remove_container,
)
DEPLOY_SECONDS = 1200
LIFECYCLE_SECONDS = 660


class Stacks(Result):
    """Stacks, those with problems first."""

    stacks: list[Stack]
    total: int
    more: int = 0

    def text(self) -> str:
        """A table, then the problems."""
        return "\n".join([super().text(), *(f"problem: {one.problem}" for one in self.stacks if one.problem)])


class StackChange(Result):
    """A stack after a change, or what a change would do."""

    name: str
    status: str
    changes: list[ServiceChange] = Field(default=[])
    services: list[ServiceRow] = Field(default=[])
    version: str = ""
    removed: list[str] = Field(default=[])
    kept: list[str] = Field(default=[])
    warnings: list[str] = Field(default=[])
    dry_run: bool = False

    def text(self) -> str:
        """The status, then what changed and the warnings."""
        head = f"{self.name}: {self.status}" if self.dry_run else f"{self.name} is {self.status}"
        did, keeps = ("removes", "keeps") if self.dry_run else ("removed", "kept")
        data = " with all its data" if self.dry_run else ""
        lines = describe_changes(self.changes)
        lines += [f"{did} {one}{data if one.startswith('volume ') else ''}" for one in self.removed]
        lines += [f"{keeps} {one}" for one in self.kept]
        return "\n".join([head, *lines, *(f"warning: {one}" for one in self.warnings)])


class StackLogs(Result):
    """The last lines of all containers of a stack, by time."""

    lines: list[str]
    truncated: bool
    notes: list[str] = Field(default=[])

    def text(self) -> str:
        """The lines, below notes on what is missing."""
        cut = ["… earlier lines left out; raise `tail`"] if self.truncated else []
        return "\n".join([*cut, *(f"… {one}" for one in self.notes), *self.lines]) or "(nothing logged)"


@tool(
    say=["list stacks", "show stacks", "which stacks are there", "what stacks are there"],
    about="stack, compose, docker compose, project, application",
    seconds=20,
)
def list_stacks(
    engine: Engine,
    store: VersionStore,
    undo_log: UndoLog,
    all: Annotated[bool, Field(description="removed ones too")] = False,
    limit: Annotated[int, Field(ge=1, le=1000)] = 100,
) -> Stacks:
    """List the stacks (Compose applications) with their services."""
    entries = engine.containers(all=True, label=PROJECT)
    problems = find_problems(engine, entries, undo_log.expected_states())
    projects = projects_in(entries)
    found = [stack_row(one, problems, _current(store, one.name)) for one in projects.values()]
    if all:
        gone = [(name, _current(store, name)) for name in store.stacks() if name not in projects]
        found += [removed_row(name, version) for name, version in gone if version]
    found.sort(key=lambda one: (not one.problem, one.state == "removed", one.name))
    return Stacks(stacks=found[:limit], total=len(found), more=max(0, len(found) - limit))


@tool(
    say=["show stack {name}", "inspect stack {name}", "status of stack {name}", "show the {name} stack"],
    about="stack, compose, service, version, deployed",
    untrusted=True,
    seconds=20,
    rare=True,
)
def get_stack_info(
    name: StackName,
    engine: Engine,
    store: VersionStore,
    undo_log: UndoLog,
    file: Annotated[bool, Field(description="its Compose file too")] = False,
    reveal: Annotated[bool, Field(description="show secret values")] = False,
) -> StackInfo:
    """Show one stack: services, images, ports, volumes, deployed versions."""
    entries = [one for one in engine.containers(all=True, label=PROJECT) if stack_of(one) == name]
    known = store.versions(name)
    if not entries and not known:
        raise missing_stack(name, projects_in(engine.containers(all=True, label=PROJECT)))
    project = projects_in(entries).get(name, Project(name))
    for one in project.containers if file else ():
        # Its label may forbid reading its details, which are in the file.
        engine.container(one.id)
    services, problems = service_rows(engine, project, entries, undo_log.expected_states())
    current = store.current(name)
    return StackInfo(
        name=name,
        state=stack_state(project),
        status=stack_status(project, problems),
        services=services,
        version=str(current.number) if current and entries else "",
        versions=[version_row(one, current if entries else None) for one in known],
        networks=[one["Name"] for one in lifecycle.named(lookup.list_networks(engine), name)],
        volumes=[one["Name"] for one in lifecycle.named(lookup.list_volumes(engine), name)],
        working_dir=project.working_dir,
        files=list(project.config_files),
        compose=current.compose if file and current else "",
    )


@tool(
    say=["deploy stack {name}"],
    about="deploy, compose up, compose file",
    changes=True,
    rare=True,
    seconds=DEPLOY_SECONDS,
)
def deploy_stack(
    name: NewStackName,
    engine: Engine,
    store: VersionStore,
    undo_log: UndoLog,
    progress: Progress,
    compose: Annotated[str, Field(description="text of the Compose file; empty: as deployed last")] = "",
    dry_run: DryRun = False,
    dotenv: Annotated[Strings, Field(description="lines of its .env, like KEY=value")] = [],
    replace: Annotated[bool, Field(description="also a stack not deployed through Anvyl")] = False,
) -> StackChange:
    """Create or change a stack from a Compose file."""
    deployer = Deployer(engine, store, CONTAINER_TOOLS, undo_log.permit, StepProgress(progress))
    note = ""
    if compose.strip():
        file = deployer.read_sent(name, compose, dotenv)
    else:
        file = deployer.read_stored(name)
        note = f"adopted from {', '.join(file.files)}" if file.files else ""
    plan = deployer.plan(name, file, note=note)
    if plan.foreign and plan.has_changes and not (replace or dry_run):
        raise Conflict(
            f"`{name}` runs here, but was not deployed through Anvyl: there would be no way back to what runs now",
            hint=f"keep it as a version first: anvyl stack adopt {name}; or replace it: anvyl stack up FILE --replace",
        )
    return _deploy(deployer, plan, undo_log, dry_run=dry_run)


@tool(
    say=["revert stack {name}", "revert stack {name} to version {version}", "roll back stack {name}"],
    about="revert, roll back, previous version, older version",
    changes=True,
    rare=True,
    seconds=DEPLOY_SECONDS,
)
def revert_stack(
    name: StackName,
    engine: Engine,
    store: VersionStore,
    undo_log: UndoLog,
    progress: Progress,
    version: Annotated[str, Field(description="the previous one if empty")] = "",
    dry_run: DryRun = False,
) -> StackChange:
    """Bring back an earlier version of a stack with exactly its images."""
    deployer = Deployer(engine, store, CONTAINER_TOOLS, undo_log.permit, StepProgress(progress))
    before = store.find(name, version, removed=name not in find_projects(engine))
    file = StackFile(before.compose, before.variables, before.profiles, folder=before.working_dir)
    configuration = Configuration(before.config).with_images(unmoved_images(engine, before))
    plan = deployer.plan_configuration(name, file, configuration, note=f"reverted to version {before.number}")
    return _deploy(deployer, plan, undo_log, dry_run=dry_run)


@tool(say=["start stack {name}", "start the {name} stack"], changes=True, seconds=LIFECYCLE_SECONDS)
def start_stack(name: StackName, engine: Engine, undo_log: UndoLog, progress: Progress) -> StackChange:
    """Start all containers of a stack."""
    project = _allowed(engine, name, containers.start_container, undo_log)
    with _recorded(undo_log, "start", project, inspected := _inspect(engine, project)):
        lifecycle.start(engine, project, inspected, StepProgress(progress))
    return _state(engine, name, undo_log)


@tool(say=["stop stack {name}", "stop the {name} stack"], changes=True, seconds=LIFECYCLE_SECONDS)
def stop_stack(name: StackName, engine: Engine, undo_log: UndoLog, progress: Progress) -> StackChange:
    """Stop all containers of a stack."""
    project = _allowed(engine, name, containers.stop_container, undo_log)
    with _recorded(undo_log, "stop", project, inspected := _inspect(engine, project)):
        lifecycle.stop(engine, project, inspected, StepProgress(progress))
    return _state(engine, name, undo_log)


@tool(say=["restart stack {name}", "restart the {name} stack"], changes=True, seconds=LIFECYCLE_SECONDS)
def restart_stack(name: StackName, engine: Engine, undo_log: UndoLog, progress: Progress) -> StackChange:
    """Restart all containers of a stack."""
    project = _allowed(engine, name, containers.restart_container, undo_log)
    inspected, steps = _inspect(engine, project), StepProgress(progress)
    lifecycle.stop(engine, project, inspected, steps)
    lifecycle.start(engine, project, inspected, steps)
    return _state(engine, name, undo_log)


@tool(
    say=["remove stack {name}", "delete stack {name}", "remove the {name} stack"],
    destroys=True,
    rare=True,
    seconds=LIFECYCLE_SECONDS,
)
def remove_stack(
    name: StackName,
    engine: Engine,
    undo_log: UndoLog,
    progress: Progress,
    volumes: Annotated[bool, Field(description="its volumes too, with all data")] = False,
    dry_run: DryRun = False,
) -> StackChange:
    """Remove the containers and networks of a stack."""
    own = [str(one["Name"]) for one in lifecycle.named(lookup.list_volumes(engine), name)]
    doomed = own if volumes else []
    if name not in find_projects(engine) and (doomed or lifecycle.named(lookup.list_networks(engine), name)):
        # Its containers were removed before, or a deployment that was killed had made none yet.
        project = Project(name)
    else:
        project = _allowed(engine, name, containers.remove_container, undo_log)
    for one in doomed:
        lookup.find_volume(engine, one)
        undo_log.permit(volume_tools.remove_volume, {"name": one})
    lifecycle.check_unshared(engine, project, doomed)
    kept = [f"volume {one}" for one in own if one not in doomed]
    if dry_run:
        removed, status = lifecycle.removable(engine, project, doomed), "would be removed"
    else:
        removed, status = list(lifecycle.remove(engine, project, doomed, StepProgress(progress))), "removed"
    return StackChange(name=name, status=status, removed=removed, kept=kept, dry_run=dry_run)


@tool(
    say=["show logs of stack {name}", "logs of stack {name}", "logs of the {name} stack"],
    about="stack log",
    untrusted=True,
    seconds=40,
)
def get_stack_logs(
    name: StackName,
    engine: Engine,
    tail: Annotated[int, Field(description="last lines", ge=1, le=5000)] = 100,
    since: Annotated[str, Field(description="like 10m or a time")] = "",
    grep: Annotated[str, Field(description="only lines with this text")] = "",
) -> StackLogs:
    """Show the last lines that the containers of a stack logged."""
    project, notes, parts, truncated = find_project(engine, name), [], [], False
    for one in project.containers:
        if one.hidden:
            notes.append(f"{one.name} must not be read: it has the label anvyl.read=false")
            continue
        try:
            read = reader.read_log(engine, engine.inspect(one.id), tail=tail, since=since, grep=grep)
        except Conflict as error:
            notes.append(f"{one.name}: {error.message}")
            continue
        truncated = truncated or read.truncated
        notes += [f"{one.name}: {read.note}"] if read.note else []
        # Compose 1 put underscores into the names of containers.
        short = one.name.removeprefix(f"{name}-").removeprefix(f"{name}_")
        parts.append([(at or 0, f"{short} | {line}") for at, line in zip(read.times, read.lines, strict=True)])
    # Lines of one container keep their order, also if their times are equal or unknown.
    merged = [line for _, line in heapq.merge(*parts, key=lambda entry: entry[0])]
    return StackLogs(lines=merged[-tail:], truncated=truncated or len(merged) > tail, notes=notes)


@tool(say=["stats of stack {name}", "show stats of the {name} stack"], about="stack usage", seconds=30, rare=True)
def get_stack_stats(name: StackName, engine: Engine, samples: SampleCache) -> containers.Stats:
    """Show cpu, memory, network and disk use of the running containers of a stack, the busiest first."""
    running = [one for one in find_project(engine, name).containers if one.running and not one.hidden]
    rows = measure_usage(engine, samples, {one.id: one.name for one in running})
    return containers.Stats(containers=rows, total=len(rows))


def _deploy(deployer: Deployer, plan: Plan, undo_log: UndoLog, *, dry_run: bool) -> StackChange:
    if dry_run:
        status = "would change" if plan.has_changes else "nothing would change"
        return StackChange(
            name=plan.stack, status=status, changes=list(plan.changes), warnings=plan.warnings, dry_run=True
        )
    version = deployer.deploy(plan)
    after = _state(deployer.engine, plan.stack, undo_log)
    changes = [one for one in plan.changes if one.change != "unchanged"]
    warnings = list(plan.configuration.warnings)
    return after.model_copy(update={"changes": changes, "version": str(version.number), "warnings": warnings})


def _state(engine: Engine, name: str, undo_log: UndoLog) -> StackChange:
    entries = [one for one in engine.containers(all=True, label=PROJECT) if stack_of(one) == name]
    project = projects_in(entries).get(name, Project(name))
    services, problems = service_rows(engine, project, entries, undo_log.expected_states())
    return StackChange(name=name, status=stack_status(project, problems), services=services)


def _allowed(engine: Engine, name: str, single: Tool, undo_log: UndoLog) -> Project:
    """The project, if labels and policy allow to do to each container what `single` does.

    Raises:
        NotFound: there is no such stack.
        Denied: a label or the policy forbids it for one of the containers, or this server runs in one.
    """
    project = find_project(engine, name)
    called = CURRENT_TOOL.get()
    for one in project.containers:
        if called and one.protected:
            raise Denied(
                f"`{one.name}` of the stack `{name}` must not be changed through Anvyl: "
                "it has the label `anvyl.protect=true`",
                hint="change the other containers of the stack one by one",
            )
        undo_log.permit(single, {"name": one.name})
    if single is not containers.start_container:
        for found in _inspect(engine, project).values():
            check_not_own(found, name)
    return project


def _inspect(engine: Engine, project: Project) -> dict[str, Mapping[str, Any]]:
    return {one.id: engine.inspect(one.id) for one in project.containers}


def _recorded(
    undo_log: UndoLog, did: ChangeKind, project: Project, inspected: Mapping[str, Mapping[str, Any]]
) -> ExitStack:
    """Record what happens to each container, so that a container that was stopped on purpose is no problem."""
    records = ExitStack()
    for found in inspected.values():
        records.enter_context(undo_log.record(did, found, stack=project.name))
    return records


def _current(store: VersionStore, name: str) -> StackVersion | None:
    """The version of a stack for a list, which does not fail because of one damaged file."""
    with suppress(ConfigInvalid):
        return store.current(name)
    return None
