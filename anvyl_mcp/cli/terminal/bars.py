"""Progress bars for long calls, one per host, if stderr is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from anvyl_mcp.cli.terminal import echo, screen
from anvyl_mcp.core import text
from anvyl_mcp.peers.connection.listing import ProgressCallback

ProgressFor = Callable[[str], ProgressCallback]
"""Host → callback that updates its progress bar."""

BAR_WIDTH = 24


@contextmanager
def progress_bars(hosts: Sequence[str]) -> Iterator[ProgressFor | None]:
    """Show a bar per host. Yields a function that returns the callback of a host, or None without a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.markup import escape
    from rich.table import Column

    bars = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(BAR_WIDTH, complete_style="green", finished_style="green"),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[message]}", markup=False, table_column=Column(no_wrap=True)),
        console=screen.console(sys.stderr),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    tasks = {
        host: bars.add_task(f"[{screen.host_colour(host)}]{escape(host)}", total=None, message="")
        for host in dict.fromkeys(hosts)
    }

    def report_of(host: str) -> ProgressCallback:
        def report(done: float, total: float | None, message: str) -> None:
            bars.update(tasks[host], completed=done, total=total, message=text.one_line(message))

        return report

    echo.off()
    try:
        with bars:
            bars.console.show_cursor()
            yield report_of
    finally:
        echo.on()
