"""`anvyl resources`: prints CPU, memory and disk usage, one line per host."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from anvyl_mcp.cli.commands.containers import trends
from anvyl_mcp.cli.runtime import tool_command
from anvyl_mcp.cli.runtime.host_answers import TableView
from anvyl_mcp.cli.terminal import screen
from anvyl_mcp.core import text
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome

BAR_WIDTH = 5
MIN_WIDTH_FOR_BARS = 80
COLUMNS = ("host", "cpu", "memory", "disk", "load", "up")
TITLES = {"cpu_24h": "CPU 24 H", "memory_24h": "MEMORY 24 H"}
TREND_SINCE = "24h"


def print_resources(*, host: str, as_json: bool) -> NoReturn:
    """Print CPU, memory, the fullest disk, load and uptime of every host."""
    view_from = _view_with_trends if trends.are_shown() else None
    tool_command.call("get_host_resources", {}, host=host, as_json=as_json, view=_table_view, view_from=view_from)


async def _view_with_trends(fleet: Fleet, selector: str) -> tool_command.TableViewOf:
    """The table view with sparklines of the last day."""
    found = await trends.read_trends(fleet, fleet.select(selector) if selector else fleet.hosts, TREND_SINCE)
    if not any((*found.cpu.values(), *found.memory.values())):
        return _table_view

    def rows(one: Outcome) -> list[list[str]]:
        return [[*row, *found.of_machine(one.host)] for row in _rows(one)]

    return lambda _: TableView([*COLUMNS, "cpu_24h", "memory_24h"], rows, TITLES, noun="figures")


def _table_view(tool: ToolListing) -> TableView:
    return TableView(COLUMNS, _rows, noun="figures")


def _rows(one: Outcome) -> list[list[str]]:
    result = one.answer.result or {}
    memory, disks = result["memory"], sorted(result["disks"], key=lambda disk: float(disk["percent"]), reverse=True)
    return [
        [
            one.host,
            _share(result["cpu_percent"]),
            f"{_share(memory['percent'])} of {text.format_size(memory['total'])}",
            _disk(disks) if disks else "",
            f"{result['load'][0]:g}" if result["load"] else "",
            text.format_duration(result["uptime_seconds"]),
        ]
    ]


def _disk(disks: Sequence[Mapping[str, Any]]) -> str:
    """Usage of the fullest disk; with its mount point if that is not obvious."""
    fullest = disks[0]
    where = f" {fullest['mount']}" if len(disks) > 1 or fullest["mount"] != "/" else ""
    return f"{_share(fullest['percent'])} of {text.format_size(fullest['total'])}{where}"


def _share(percent: float) -> str:
    if not sys.stdout.isatty() or screen.console(sys.stdout).width < MIN_WIDTH_FOR_BARS:
        return f"{percent:.0f} %"
    full = min(round(percent / 100 * BAR_WIDTH), BAR_WIDTH)
    return f"{'█' * full}{'░' * (BAR_WIDTH - full)} {percent:3.0f} %"
