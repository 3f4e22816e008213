"""Sparklines of the recorded usage, for the tables of `anvyl stats` and `anvyl resources` on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from anvyl_mcp.cli.terminal import streams
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.:-=+*#"
"""For output that cannot encode the bars."""
TOOL = "get_usage_history"
POINTS = 12
PATIENCE = 1.5
"""Seconds to wait for trends: the figures themselves are more important."""
BUSY_CPU = 25.0
"""Percent of a core at which a bar is at full height at least."""


@dataclass
class Trends:
    """Sparklines by host and name of a container; the machine is the first of a host."""

    cpu: dict[tuple[str, str], str] = field(default_factory=dict)
    memory: dict[tuple[str, str], str] = field(default_factory=dict)
    machines: dict[str, str] = field(default_factory=dict)
    """Name of the machine's row by host."""

    def add(self, outcome: Outcome) -> None:
        """Add what a host answered; a host without history has none."""
        rows: list[dict[str, Any]] = (outcome.answer.result or {}).get("usage", []) if outcome.ok else []
        for number, row in enumerate(rows):
            key = outcome.host, str(row["name"])
            if number == 0:
                self.machines[outcome.host] = key[1]
            self.cpu[key] = sparkline(row.get("cpu_trend", []), least_top=BUSY_CPU)
            self.memory[key] = sparkline(row.get("memory_trend", []))

    def of_container(self, host: str, name: str) -> list[str]:
        """Cpu and memory of one container."""
        return [self.cpu.get((host, name), ""), self.memory.get((host, name), "")]

    def of_machine(self, host: str) -> list[str]:
        """Cpu and memory of a machine."""
        return self.of_container(host, self.machines.get(host, ""))


def are_shown() -> bool:
    """Whether trends are shown: only in a table, as programs rely on the columns of the other output."""
    return sys.stdout.isatty()


async def read_trends(fleet: Fleet, hosts: Sequence[str], since: str) -> Trends:
    """Ask hosts for their trends, for a short time."""
    found = Trends()
    try:
        await fleet.learn_tool(TOOL)
        with anyio.move_on_after(PATIENCE):
            await fleet.call_many(hosts, TOOL, {"since": since, "points": POINTS}, on_outcome=found.add)
    except AnvylError:
        pass  # the hosts are too old to have a history
    return found


def sparkline(figures: Sequence[float | None], *, least_top: float = 0.0) -> str:
    """Draw figures as bars, oldest first; a blank is a time without one. Empty if none is known.

    `least_top`: the height of the highest bar at least, so that a cpu that idles does not look busy.
    """
    known = [figure for figure in figures if figure is not None]
    if not known:
        return ""
    bars = BARS if streams.is_unicode(sys.stdout.encoding) else ASCII_BARS
    top, last = max(*known, least_top) or 1.0, len(bars) - 1
    return "".join(" " if figure is None else bars[max(0, round(figure / top * last))] for figure in figures)
