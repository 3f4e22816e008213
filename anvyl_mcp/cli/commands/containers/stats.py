"""`anvyl stats`: prints resource usage of containers, once or continuously."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import anyio

from anvyl_mcp.cli.commands.containers import trends
from anvyl_mcp.cli.runtime import output, tool_command
from anvyl_mcp.cli.runtime.host_answers import TableView, table_view
from anvyl_mcp.cli.runtime.runner import run_command
from anvyl_mcp.cli.terminal import screen
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.peers.changes import outcome
from anvyl_mcp.peers.changes.stack_names import stacks_among
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.fleet.targets import ListedObjects

TOOL = "get_container_stats"
EVERY_SECONDS = 2
TITLES = {
    "cpu_percent": "CPU",
    "memory_used": "MEMORY",
    "memory_limit": "LIMIT",
    "net_rx": "NET IN",
    "net_tx": "NET OUT",
    "pids": "PIDS",
    "cpu_2h": "CPU 2 H",
    "memory_2h": "MEMORY 2 H",
}
TREND_SINCE = "2h"


def stats_view(tool: ToolListing) -> TableView | None:
    """Table view of the tool, with shorter headings."""
    return table_view(tool, TITLES)


def show_stats(names: Sequence[str], *, watch: bool, host: str, as_json: bool) -> NoReturn:
    """Print the resource usage of all or some running containers."""
    if watch:
        _watch(names, host=host, as_json=as_json)
    view_from = _view_with_trends if trends.are_shown() else None
    if names:
        tool_command.call_for_each(TOOL, names, {}, host=host, as_json=as_json, view=stats_view, view_from=view_from)
    tool_command.call(TOOL, {}, host=host, as_json=as_json, view=stats_view, view_from=view_from)


async def _view_with_trends(fleet: Fleet, selector: str) -> tool_command.TableViewOf:
    """The table view with sparklines of the last two hours."""
    found = await trends.read_trends(fleet, fleet.select(selector) if selector else fleet.hosts, TREND_SINCE)

    def view(tool: ToolListing) -> TableView | None:
        shown = stats_view(tool)
        if shown is None or not any((*found.cpu.values(), *found.memory.values())):
            return shown
        name = list(shown.columns).index("name")

        def rows(one: Outcome) -> list[list[str]]:
            return [[*row, *found.of_container(one.host, row[name])] for row in shown.rows(one)]

        return TableView([*shown.columns, "cpu_2h", "memory_2h"], rows, TITLES, shown.noun)

    return view


def _watch(names: Sequence[str], *, host: str, as_json: bool) -> NoReturn:
    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        async with open_node(settings, lean=True) as node:
            found, steps = ListedObjects(), list[tuple[str, tool_command.PlannedCall]]()
            every: list[dict[str, Any]] = [{"name": name} for name in dict.fromkeys(names)] or [{}]
            stacks = await stacks_among(node.fleet, names, host, found) if names else []
            for tool, calls in tool_command.by_tool(node.fleet, TOOL, every, stacks):
                planned, missing = await tool_command.plan_calls(node.fleet, tool, calls, host, found)
                steps += [(tool.name, step) for step in planned]
                for one in missing:
                    output.print_failure(one)
            display = _StatsDisplay(node.fleet.tool(TOOL), [step for _, step in steps], as_json=as_json)
            async with anyio.create_task_group() as group:
                group.start_soon(display.redraw)
                for called, step in steps:
                    for target in step.hosts:
                        group.start_soon(display.poll, node.fleet, target, called, step.arguments)
        return 0

    run_command(work, failed=output.no_hosts_document if as_json else None)


class _StatsDisplay:
    """Shows the latest result of every host, redrawn every two seconds; a slow host does not delay the others."""

    def __init__(self, tool: ToolListing, steps: Sequence[tool_command.PlannedCall], *, as_json: bool) -> None:
        shown = stats_view(tool)
        assert shown is not None
        self._view = shown
        self._pairs = [(str(step.arguments.get("name", "")), host) for step in steps for host in step.hosts]
        self._latest: dict[tuple[str, str], Outcome] = {}
        self._as_json = as_json
        live = None if as_json else output.live_display(sys.stdout)
        # A dumb terminal cannot redraw, so it gets rows, as a pipe does.
        self._live = live if live and live.console.is_interactive else None
        self._news = anyio.Event()
        self._headed = False

    async def poll(self, fleet: Fleet, host: str, tool: str, arguments: Mapping[str, Any]) -> None:
        """Call one host repeatedly."""
        while True:
            self._latest[str(arguments.get("name", "")), host] = await fleet.call(host, tool, arguments)
            self._news.set()
            await anyio.sleep(EVERY_SECONDS)

    async def redraw(self) -> None:
        """Draw the latest results every two seconds."""
        await self._news.wait()
        with anyio.move_on_after(EVERY_SECONDS):
            while len(self._latest) < len(self._pairs):
                self._news = anyio.Event()
                await self._news.wait()
        while True:
            self._draw()
            await anyio.sleep(EVERY_SECONDS)

    def _draw(self) -> None:
        done = [self._latest[pair] for pair in self._pairs if pair in self._latest]
        if self._as_json:
            output.print_json({"calls": outcome.documents(done)}, indent=None)
            return
        rows = [row for one in done if one.ok for row in self._view.rows(one)]
        if self._live is not None:
            self._live.show(self._silent(done), "red", table=screen.TableData(self._view.columns, rows, TITLES))
            return
        if not self._headed:
            self._headed = True
            output.print_row(self._view.columns)
        for row in rows:
            output.print_row(row)
        sys.stdout.flush()

    def _silent(self, done: Sequence[Outcome]) -> list[str]:
        """One line per host without a result."""
        lines = [f"{one.host}: {one.error.message}" for one in done if one.error is not None]
        lines += [f"{host}: no answer yet" for pair in self._pairs if pair not in self._latest for host in pair[1:]]
        return lines
