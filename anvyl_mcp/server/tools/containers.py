"""Containers on this host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, NotFound
from anvyl_mcp.server import commands
from anvyl_mcp.server.containers.create import RunOptions, remove_unstarted
from anvyl_mcp.server.containers.own_container import check_not_own
from anvyl_mcp.server.containers.problems import find_problems
from anvyl_mcp.server.containers.summary import GROUPED_FROM, group_lines
from anvyl_mcp.server.containers.undo_log import UndoLog
from anvyl_mcp.server.containers.views import (
    Container,
    ContainerInfo,
    by_attention,
    container_info,
    container_row,
    stack_of,
)
from anvyl_mcp.server.engine import container_exec, stats
from anvyl_mcp.server.engine.container_exec import ExecOutput
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine, own_name
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.engine.logs import reader
from anvyl_mcp.server.engine.stats import ContainerStats, SampleCache
from anvyl_mcp.server.history import queries
from anvyl_mcp.server.history.store import HistoryStore
from anvyl_mcp.server.progress import Progress, report_elapsed
from anvyl_mcp.server.tool import ContainerName, Result, Strings, tool

StopTimeout = Annotated[int, Field(description="seconds until it is killed", ge=0, le=120)]


class Containers(Result):
    """Containers, those that need attention first."""

    containers: list[Container]
    total: int
    more: int = 0

    def text(self) -> str:
        """A table, or for many containers groups by what they have in common; then the problems."""
        table = super().text()
        if not any(one.stack for one in self.containers):
            table = table.replace("  ports  stack", "  ports", 1)
        lines = (
            table
            if len(self.containers) < GROUPED_FROM
            else "\n".join([*group_lines(self.containers), *text.more_note(self.more)])
        )
        unhealthy = [f"problem: {one.name} is unhealthy" for one in self.containers if one.health == "unhealthy"]
        others = [f"problem: {one.name} {one.problem}" for one in self.containers if not one.status_shows_problem]
        return "\n".join([lines, *unhealthy, *others])


class ContainerState(Result):
    """A container after a change."""

    id: str
    name: str
    image: str
    state: str

    def text(self) -> str:
        """One line: name and state."""
        return f"{self.name} is {self.state}"


class CreatedContainer(ContainerState):
    """A new container, and which ports of the host lead to it."""

    ports: list[str] = Field(default=[])
    note: str = ""

    def text(self) -> str:
        """One line: name, state, ports, and a note if a port was guessed."""
        return ", ".join(filter(None, [f"created {self.name}, which is {self.state}", *self.ports, self.note]))


class Removed(Result):
    """A removed container."""

    id: str
    name: str
    removed: bool = True

    def text(self) -> str:
        """One line."""
        return f"removed {self.name}"


class Stats(Result):
    """Current usage of running containers."""

    containers: list[ContainerStats]
    total: int
    more: int = 0

    def text(self) -> str:
        """A table, or compact lines of the busiest of many; then containers without figures."""
        many = len(self.containers) >= GROUPED_FROM
        unknown = [row.name for row in self.containers if not row.has_figures][:GROUPED_FROM]
        words = [f"the engine reports no figures for {text.join_names(unknown)}"] if unknown else []
        return "\n".join([*(stats.summary_lines(self.containers) if many else [super().text()]), *words])


class Logs(Result):
    """The last lines a container wrote."""

    lines: list[str]
    truncated: bool
    next_since: str
    note: str = ""

    def text(self) -> str:
        """The lines, below a note if some are missing."""
        left_out = "earlier lines left out; raise `tail` or use `grep`" if self.truncated else ""
        head = [f"… {self.note or left_out}"] if self.note or left_out else []
        return "\n".join(head + self.lines) or "(nothing logged)"


@tool(
    say=["list containers", "show containers", "what is running", "ps"],
    about=(
        "container, service, app, running, stopped, healthy, unhealthy, restarting, paused, crashed, alive, "
        "state, status, port, label, based on, made from, still up, is up, everything ok, release, same "
        "version, which version, what version, has been running"
    ),
)
def list_containers(
    engine: Engine,
    undo_log: UndoLog,
    all: Annotated[bool, Field(description="stopped ones too")] = False,
    name: Annotated[str, Field(description="part of its name or stack")] = "",
    label: Annotated[str, Field(description="`key` or `key=value`")] = "",
    limit: Annotated[int, Field(ge=1, le=1000)] = 100,
) -> Containers:
    """List containers with their state, image and ports."""
    entries = [one for one in engine.containers(all=all, label=label) if _is_called(one, name)]
    expected = undo_log.expected_states()
    problems = find_problems(engine, entries, expected)
    found = [
        container_row(one, problem=problems.get(one["Id"], ""), expected=expected.get(one["Id"], "")) for one in entries
    ]
    found = by_attention(found)
    return Containers(containers=found[:limit], total=len(found), more=max(0, len(found) - limit))


def _is_called(entry: Mapping[str, Any], words: str) -> bool:
    """Whether the name of a container or of its stack contains the words."""
    return words.lower() in own_name(entry).lower() or words.lower() in stack_of(entry).lower()


@tool(
    say=["inspect {name}", "show details of {name}", "info about {name}"],
    about=(
        "detail, config, configured, configuration, setting, set to, environment, env, env var, variable, "
        "mount, bind, folder, data, restart policy, come back after, entrypoint, command, exit code, ip "
        "address, ip, attached to, when was it started, created, limit, port, belongs to, uses volume, which "
        "image, what image, which version, what version, connect to, talk to, password, user"
    ),
    untrusted=True,
)
def get_container_info(
    name: ContainerName,
    engine: Engine,
    reveal: Annotated[bool, Field(description="show secret values")] = False,
) -> ContainerInfo:
    """Show one container in detail: command, environment, mounts, networks, exit code."""
    return container_info(engine.container(name), reveal=reveal)


@tool(say=["start {name}"], changes=True, seconds=60)
def start_container(name: ContainerName, engine: Engine, undo_log: UndoLog) -> ContainerState:
    """Start a stopped container."""
    container = engine.container(name)
    with (
        undo_log.record("start", container),
        engine_errors(missing=lambda: engine.missing_container(name), doing=f"to start `{name}`"),
    ):
        engine.client(CHANGE_TIMEOUT).start(container["Id"])
    return state_of(engine, container)


@tool(say=["stop {name}", "shut down {name}"], changes=True, seconds=CHANGE_TIMEOUT)
def stop_container(
    name: ContainerName, engine: Engine, progress: Progress, undo_log: UndoLog, timeout: StopTimeout = 10
) -> ContainerState:
    """Stop a running container."""
    container = engine.container(name)
    check_not_own(container)
    with (
        undo_log.record("stop", container),
        engine_errors(missing=lambda: engine.missing_container(name), doing=f"to stop `{name}`"),
        report_elapsed(progress, timeout, f"stopping {name}"),
    ):
        engine.client(CHANGE_TIMEOUT).stop(container["Id"], timeout=timeout)
    return state_of(engine, container)


@tool(say=["restart {name}"], changes=True, seconds=CHANGE_TIMEOUT)
def restart_container(
    name: ContainerName, engine: Engine, progress: Progress, timeout: StopTimeout = 10
) -> ContainerState:
    """Restart a container."""
    container = engine.container(name)
    with (
        engine_errors(missing=lambda: engine.missing_container(name), doing=f"to restart `{name}`"),
        report_elapsed(progress, timeout, f"restarting {name}"),
    ):
        engine.client(CHANGE_TIMEOUT).restart(container["Id"], timeout=timeout)
    return state_of(engine, container)


@tool(say=["remove {name}", "delete {name}"], destroys=True, seconds=60)
def remove_container(
    name: ContainerName,
    engine: Engine,
    undo_log: UndoLog,
    force: Annotated[bool, Field(description="also when it runs")] = False,
) -> Removed:
    """Remove a container for good."""
    container = engine.container(name)
    if force:
        check_not_own(container)
    with (
        undo_log.record("remove", container),
        engine_errors(missing=lambda: engine.missing_container(name), doing=f"to remove `{name}`"),
    ):
        engine.client(CHANGE_TIMEOUT).remove_container(container["Id"], force=force)
    return Removed(id=container["Id"][:12], name=container["Name"].lstrip("/"))


@tool(
    say=[
        "run image {image}",
        "create container {name} from {image}",
        "run {image} as {name}",
        "run image {image} as {name}",
        "start {image} as {name}",
        "create {image} as {name}",
        "deploy {image}",
        "deploy {image} as {name}",
        "create container from {image}",
        "start container from {image}",
        "run container from {image}",
        "create {image} container",
        "run {image} container",
    ],
    changes=True,
    seconds=600,
)
def create_container(
    image: Annotated[str, Field(description="like nginx:1.27", min_length=1, json_schema_extra={"x-uses": "image"})],
    engine: Engine,
    progress: Progress,
    name: Annotated[
        str, Field(description="name of the new container", json_schema_extra={"x-makes": "container"})
    ] = "",
    command: Annotated[str, Field(description="instead of the image's own")] = "",
    ports: Annotated[
        Strings, Field(description="like 8080:80; 8080 for the image's own", json_schema_extra={"x-ports-of": "image"})
    ] = [],
    env: Annotated[Strings, Field(description="like KEY=value")] = [],
    volumes: Annotated[Strings, Field(description="like /data:/data:ro")] = [],
    labels: Annotated[Strings, Field(description="like key=value")] = [],
    restart: Annotated[str, Field(description="no, always, unless-stopped or on-failure")] = "",
    network: str = "",
    memory: Annotated[str, Field(description="like 512m")] = "",
    cpus: Annotated[str, Field(description="like 1.5")] = "",
) -> CreatedContainer:
    """Create a container from an image and start it."""
    options = RunOptions.parse(
        published=ports,
        env=env,
        volumes=volumes,
        labels=labels,
        command=command,
        restart=restart,
        network=network,
        memory=memory,
        cpus=cpus,
    )
    created, guessed = options.create(engine, image, name, progress)
    try:
        with engine_errors(doing=f"to start `{name or image}`"):
            engine.client(CHANGE_TIMEOUT).start(created)
    except AnvylError as error:
        remove_unstarted(engine, created, error)
        raise
    now = engine.inspect(created)
    note = f"`{image}` exposes no port, so the container port is the same" if guessed else ""
    return CreatedContainer(
        **dict(state_of(engine, now)), ports=[one for one in container_info(now).ports if "->" in one], note=note
    )


@tool(
    say=["show logs of {name}", "logs {name}", "tail {name}", "read logs of {name}"],
    about=(
        "log, error, warning, output, message, complain, why, wrong, crash, crashed, fail, broken, problem, "
        "issue, trouble, reason, cause, happened to, wrote, printed, said, say, exception, not working, does "
        "not work, hang, slow, what is going on, going on, stack trace, last line, die, died, finished, "
        "worked, succeeded, went through, come up, been up to, keep, doing"
    ),
    untrusted=True,
    seconds=20,
)
def get_container_logs(
    name: ContainerName,
    engine: Engine,
    history: HistoryStore,
    tail: Annotated[int, Field(description="last lines", ge=1, le=5000)] = 100,
    since: Annotated[str, Field(description="like 10m or a time")] = "",
    grep: Annotated[str, Field(description="only lines with this text")] = "",
) -> Logs:
    """Show the last lines a container logged."""
    try:
        container = engine.container(name)
    except NotFound as error:
        if not queries.has_last_lines(history, name):
            raise
        raise NotFound(
            f"{error.message} now, but its last lines were kept",
            hint=f"see anvyl history {name} --since 90d",
            call_hint=f"call list_history with name={name} and since=90d",
        ) from error
    read = reader.read_log(engine, container, tail=tail, since=since, grep=grep)
    return Logs(lines=read.lines, truncated=read.truncated, next_since=read.next_since, note=read.note)


@tool(
    say=["container stats", "show stats", "show stats of {name}", "stats {name}"],
    about=(
        "cpu, memory, use, hungry, heavy, busy, load, traffic, network traffic, leak, percent, consume, per "
        "container, hog, slow, gb, much"
    ),
    seconds=30,
)
def get_container_stats(
    engine: Engine,
    samples: SampleCache,
    name: Annotated[
        str, Field(description="one container; all running ones when empty", json_schema_extra={"x-names": "container"})
    ] = "",
) -> Stats:
    """Show cpu, memory, network and disk use of running containers, the busiest first."""
    one = engine.container(name) if name else None
    rows = stats.measure_one(engine, samples, one) if one else stats.measure_usage(engine, samples)
    return Stats(containers=rows, total=len(rows))


@tool(
    say=[
        "run {command} in container {name}",
        "execute {command} in container {name}",
        "run {command} inside {name}",
        "execute {command} inside {name}",
    ],
    destroys=True,
    scope="exec",
    untrusted=True,
    seconds=320,
)
def exec_in_container(
    name: ContainerName,
    command: Annotated[str, Field(description="no shell unless sh -c '…'", min_length=1)],
    engine: Engine,
    progress: Progress,
    timeout: Annotated[int, Field(description="seconds", ge=1, le=300)] = 30,
) -> ExecOutput:
    """Run a command inside a running container."""
    return container_exec.run(
        engine, engine.container(name), commands.split(command), seconds=timeout, progress=progress
    )


def state_of(engine: Engine, container: Mapping[str, Any]) -> ContainerState:
    """The current state of a container."""
    now = engine.inspect(container["Id"])
    return ContainerState(
        id=now["Id"][:12], name=now["Name"].lstrip("/"), image=now["Config"]["Image"], state=now["State"]["Status"]
    )
