"""How far long work is: a bar per host on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from anvyl_mcp import text
from anvyl_mcp.cli import screen
from anvyl_mcp.peers.listing import Progress

ReportOf = Callable[[str], Progress]
"""Host → what is told how far its work is."""

BAR = 24
REDRAW_SECONDS = 0.1


@contextmanager
def showing(hosts: Sequence[str]) -> Iterator[ReportOf | None]:
    """Bars for as long as the work takes; yields what each host's progress is told to."""
    if not sys.stderr.isatty():
        yield None
        return
    bars = _Bars(hosts)
    try:
        yield bars.of
    finally:
        bars.end()


class _Bars:
    def __init__(self, hosts: Sequence[str]) -> None:
        self._wide = max(map(screen.width, hosts), default=0)
        self._told: dict[str, tuple[float, float | None, str]] = {}
        self._live = screen.Live(sys.stderr)
        self._drawn = 0.0

    def of(self, host: str) -> Progress:
        def report(done: float, total: float | None, message: str) -> None:
            self._told[host] = done, total, message
            if time.monotonic() - self._drawn >= REDRAW_SECONDS:
                self._drawn = time.monotonic()
                self._live.show([self._line(host) for host in self._told])

        return report

    def end(self) -> None:
        self._live.end()

    def _line(self, host: str) -> str:
        done, total, message = self._told[host]
        name = screen.paint(host.ljust(self._wide), screen.host_colour(host), sys.stderr)
        share = min(done / total, 1.0) if total else 0.0
        full = round(share * BAR)
        bar = screen.paint("━" * full, "green", sys.stderr) + screen.paint("─" * (BAR - full), "dim", sys.stderr)
        percent = f"{share * 100:3.0f} %" if total else "     "
        room = screen.size()[0] - self._wide - BAR - 12
        return f"{name}  {bar}  {percent}  {screen.cut(text.one_line(message), max(room, 1))}"
