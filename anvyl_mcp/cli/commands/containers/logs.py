"""`anvyl logs`: prints and follows the logs of containers on several hosts as one stream."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

import anyio

from anvyl_mcp.cli.runtime import name_cache, output, tool_command
from anvyl_mcp.cli.runtime.runner import run_command
from anvyl_mcp.cli.terminal import screen
from anvyl_mcp.core import text
from anvyl_mcp.core.errors import HOST_FAILURES, AnvylError
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.peers.changes import outcome
from anvyl_mcp.peers.changes.stack_names import containers_of
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.fleet.targets import ListedObjects

TOOL = "get_container_logs"
MOST_LINES = 5000
"""Per poll while following; a note is printed if a container writes more."""
BUSY_SECONDS, QUIET_SECONDS, LOST_SECONDS = 0.3, 1.0, 3.0
"""Poll intervals of a log: after new lines, after none, and while its host does not answer."""


def print_logs(
    names: Sequence[str], *, follow: bool, tail: int, since: str, grep: str, host: str, as_json: bool
) -> NoReturn:
    """Print the logs of some containers; `follow`: until Ctrl-C."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        async with open_node(settings, lean=True) as node:
            fleet, tool, found = node.fleet, node.fleet.tool(TOOL), ListedObjects()
            chosen = await containers_of(fleet, list(dict.fromkeys(names)), host, found)
            every = [{"name": one, "tail": tail, "since": since, "grep": grep} for one in chosen]
            steps, missing = await tool_command.plan_calls(fleet, tool, every, host, found)
            name_cache.update(settings, fleet, found)
            sources = _log_sources(steps, as_json=as_json and follow)
            for one in missing:
                output.print_failure(one)
            if follow:
                unread: list[Outcome] = []
                async with anyio.create_task_group() as group:
                    for source in sources:
                        group.start_soon(_follow, fleet, source, unread)
                return outcome.exit_code([*missing, *unread])
            done = [*missing, *await tool_command.call_hosts(fleet, tool, steps, None)]
        if as_json:
            output.print_json(tool_command.calls_document(done, several=len(every) > 1))
        for one, source in zip(done[len(missing) :], sources, strict=True):
            if one.error is not None:
                output.print_failure(one)
            elif not as_json:
                _print(source, one.answer.result or {})
        return outcome.exit_code(done)

    several = len(set(names)) > 1
    run_command(work, failed=partial(tool_command.calls_failed, several=several) if as_json else None)


@dataclass(frozen=True)
class LogSource:
    """One container's log and the label of its lines."""

    host: str
    arguments: Mapping[str, Any]
    label: str
    as_json: bool = False
    resumed: bool = False
    """Whether its first lines were printed already."""


def _log_sources(steps: Sequence[tool_command.PlannedCall], *, as_json: bool) -> list[LogSource]:
    """The logs to print, labelled if there are several."""
    pairs = [(step.arguments, host) for step in steps for host in step.hosts]
    plain = [f"{host}/{arguments['name']}" for arguments, host in pairs]
    labels = _labels(plain) if len(pairs) > 1 else [""] * len(pairs)
    return [LogSource(host, arguments, label, as_json) for (arguments, host), label in zip(pairs, labels, strict=True)]


def _labels(names: Sequence[str]) -> list[str]:
    if not sys.stdout.isatty():
        return [f"{name}\t" for name in names]
    from rich.cells import cell_len, set_cell_size

    width = max(map(cell_len, names))
    return [screen.paint(set_cell_size(name, width) + " │ ", screen.host_colour(name)) for name in names]


def _print(source: LogSource, result: Mapping[str, Any]) -> None:
    name = source.arguments["name"]
    for line in result["lines"]:
        if source.as_json:
            output.print_json({"host": source.host, "name": name, "line": line}, indent=None)
        else:
            # A log line must not contain a line break, since the second part would have no label.
            words = text.clean(line).replace("\n", " ")
            output.print_verbatim(f"{source.label}{words}")
    sys.stdout.flush()


async def _follow(fleet: Fleet, source: LogSource, unread: list[Outcome]) -> None:
    """Poll a log and print new lines, through restarts of the container and its host, until the container is gone.

    A log that could never be read is added to `unread`.
    """
    lost = False
    while True:
        one = await fleet.call(source.host, TOOL, source.arguments)
        name = source.arguments["name"]
        if one.error is not None:
            if not isinstance(one.error, HOST_FAILURES):
                output.print_failure(one)
                if not source.resumed:
                    unread.append(one)
                return
            if not lost:
                _report_lost(one.error, source)
            lost = True
            await anyio.sleep(LOST_SECONDS)
            continue
        if lost:
            output.print_message(f"{source.host} answers again; following {name}")
        lost = False
        result = one.answer.result or {}
        if result.get("truncated") and source.resumed:
            output.print_message(f"{source.host}: {name} writes too fast; some lines were skipped")
        _print(source, result)
        source = replace(source, arguments=_next_arguments(source.arguments, result), resumed=True)
        await anyio.sleep(BUSY_SECONDS if result["lines"] else QUIET_SECONDS)


def _next_arguments(arguments: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    return {**arguments, "tail": MOST_LINES, "since": result["next_since"] or arguments["since"]}


def _report_lost(error: AnvylError, source: LogSource) -> None:
    problem = type(error)(
        f"{source.host}: {error.message}", hint=f"waiting for it to follow {source.arguments['name']} again"
    )
    output.print_error(problem)
