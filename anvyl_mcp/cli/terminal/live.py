"""Live display at the end of a terminal. Imports rich, so import this module only for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich import live
from rich.console import Group, RenderableType
from rich.control import Control
from rich.segment import ControlType, Segment
from rich.text import Text

from anvyl_mcp.cli.terminal import echo, screen, tables
from anvyl_mcp.cli.terminal.screen import TableData
from anvyl_mcp.core import text


class LiveDisplay:
    """A live display that can be restarted. The echo of typed keys is off while it is shown."""

    def __init__(self, stream: TextIO) -> None:
        self.console = screen.console(stream)
        self._live: live.Live | None = None
        self._columns = 0

    def show(self, lines: Sequence[str], style: str = "dim", *, table: TableData | None = None) -> None:
        """Redraw: the rows that fit on the screen, and lines below them."""
        if self._live is None:
            # Typed keys would move the cursor off the display.
            echo.off()
            self._live = live.Live(
                console=self.console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
            # Keep the cursor visible, in case the program is killed.
            self.console.show_cursor()
        self._erase_wrapped_rows(self._live)
        room = max(self.console.height - len(lines) - 1, 0)
        rows = [self._build_table(table._replace(rows=table.rows[:room]))] if table else []
        below = [Text(text.one_line(line), style, no_wrap=True, overflow="ellipsis") for line in lines]
        self._live.update(Group(*rows, *below), refresh=True)
        self._columns = self.console.width

    def end(self, table: TableData | None = None) -> bool:
        """Replace the display by the full table, or erase it. Returns whether it was shown."""
        final = self._build_table(table) if table else None
        if self._live is None:
            if final:
                self.console.print(final)
            return False
        self._erase_wrapped_rows(self._live)
        self._live.transient = final is None
        self._live.update(final or "")
        self._live.stop()
        self._live = None
        echo.on()
        return True

    def _build_table(self, table: TableData) -> RenderableType:
        return tables.build_table(*table, room=self.console.width)

    def _erase_wrapped_rows(self, shown: live.Live) -> None:
        """Erase the rows that a narrower terminal added by wrapping lines; rich does not count them."""
        columns = self.console.width
        if columns < self._columns:
            options = self.console.options.update_width(self._columns)
            widths = map(Segment.get_line_length, self.console.render_lines(shown.renderable, options, pad=False))
            rows = sum(max(width - 1, 0) // columns for width in widths)
            self.console.control(Control(*[(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * rows))
