"""Tables for a terminal, with cells coloured by state. Imports rich, so import this module only for a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from anvyl_mcp.cli.terminal import screen
from anvyl_mcp.core import text

GAP = 2
MIN_WIDTH = 8
"""Width to which a column is shortened at most."""
ESSENTIAL = frozenset(
    {"host", "name", "status", "state", "time", "tool", "outcome", "client", "command", "cpu_percent"}
)
"""Columns that are shortened or dropped only when no others are left."""
_NUMBER = re.compile(r"-?[\d.,]+( ?(%|[KMGT]?i?B|s|min|h|days|ms))?")
_SHARE = re.compile(r"[█░]+ +(\d+) %")
_STYLES = (
    ("unhealthy", "red"), ("dead", "red"), ("restarting", "red"), ("unreachable", "red"), ("timeout", "red"),
    ("engine_", "red"), ("refused", "red"), ("denied", "red"), ("unknown", "red"), ("destroys", "red"),
    ("altered", "red"), ("unpaired", "yellow"), ("healthy", "green"), ("starting", "yellow"),
    ("up ", "green"), ("running", "green"), ("ok", "green"), ("changes", "yellow"),
    ("exited", "dim"), ("created", "dim"), ("paused", "yellow"),
)  # fmt: skip


@dataclass
class _Column:
    """One column. `number`: all cells are numbers; `width` is reduced until the table fits."""

    name: str
    head: str
    cells: Sequence[str]
    number: bool
    width: int

    @property
    def floor(self) -> int:
        """Minimum width. Names, states and numbers are not shortened, because that would change their meaning."""
        if self.number or self.name in ESSENTIAL:
            return self.width
        return min(self.width, max(MIN_WIDTH, cell_len(self.head)))


def build_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], titles: Mapping[str, str], *, room: int
) -> Table:
    """Build a table of at most `room` columns of characters; `titles` replace names of columns.

    If it is too wide, less important columns are shortened first and then dropped.
    """
    made = [_column(name, [row[place] for row in rows], titles) for place, name in enumerate(columns)]
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    cells: list[list[Text]] = []
    for column in _fit(made, room):
        justify: Literal["left", "right"] = "right" if column.number else "left"
        table.add_column(Text(truncate(column.head, column.width)), width=column.width, justify=justify, no_wrap=True)
        style_of = screen.host_colour if column.name == "host" else cell_style
        cells.append([Text(truncate(cell, column.width), style_of(cell)) for cell in column.cells])
    for row in zip(*cells, strict=True):
        table.add_row(*row)
    return table


def _column(name: str, cells: Sequence[str], titles: Mapping[str, str]) -> _Column:
    shown = [text.one_line(text.shorten_status(cell) if name == "status" else cell) for cell in cells]
    head = titles.get(name, name.replace("_percent", " %").replace("_", " ")).upper()
    filled = [cell for cell in shown if cell]
    number = bool(filled) and all(map(_NUMBER.fullmatch, filled))
    return _Column(name, head, shown, number, max(map(cell_len, [head, *shown])))


def _fit(columns: Sequence[_Column], room: int) -> list[_Column]:
    """Drop and shorten columns until the table fits, the widest first, and `ESSENTIAL` ones last."""
    kept, floors = list(columns), [column.floor for column in columns]
    while sum(floors) + GAP * (len(kept) - 1) > room:
        lesser = [place for place, column in enumerate(kept) if column.name not in ESSENTIAL]
        if not lesser:
            floors = [min(column.width, MIN_WIDTH) for column in kept]
            break
        # Drop the widest text column first, then numbers from the right.
        place = max(reversed(lesser), key=lambda place: 0 if kept[place].number else kept[place].width)
        del kept[place], floors[place]
    for _ in range(sum(column.width for column in kept) + GAP * (len(kept) - 1) - room):
        spare = [column for column, floor in zip(kept, floors, strict=True) if column.width > floor]
        if spare:
            max(spare, key=lambda column: column.width).width -= 1
    return kept


def truncate(words: str, room: int) -> str:
    """Shorten a text to `room` columns. A single long word keeps its end, where tags and versions are."""
    if cell_len(words) <= room:
        return words
    tail = 0 if room < 8 or " " in words else (room - 1) // 2
    return set_cell_size(words, room - 1 - tail) + "…" + set_cell_size(words[::-1], tail)[::-1]


def cell_style(cell: str) -> str:
    """Return the style of a cell that contains a state; empty for other cells."""
    low = cell.lower()
    if "(unhealthy)" in low:
        return "red"
    if full := _SHARE.match(cell):
        return "red" if int(full[1]) >= 90 else "yellow" if int(full[1]) >= 75 else "green"
    return next((colour for start, colour in _STYLES if low.startswith(start) and len(low) < 200), "")
