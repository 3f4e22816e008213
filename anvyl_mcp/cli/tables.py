"""Tables as a person would photograph them: aligned, coloured by what cells say, no wider than the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from anvyl_mcp import text
from anvyl_mcp.cli import screen

GAP = 2
NARROWEST = 8
"""What a column is not cut below."""
KEPT = frozenset({"host", "name", "status", "state", "time", "tool", "outcome", "client", "command", "cpu_percent"})
"""Columns that are neither cut nor left out while there is room for them alone."""
_NUMBER = re.compile(r"-?[\d.,]+( ?(%|[KMGT]?i?B|s|min|h|days|ms))?")
_SHARE = re.compile(r"[█░]+ +(\d+) %")
_STYLES = (
    ("unhealthy", "red"), ("dead", "red"), ("restarting", "red"), ("unreachable", "red"), ("timeout", "red"),
    ("engine_", "red"), ("refused", "red"), ("denied", "red"), ("unknown", "red"), ("destroys", "red"),
    ("altered", "red"), ("unpaired", "yellow"), ("healthy", "green"), ("starting", "yellow"),
    ("up ", "green"), ("running", "green"), ("ok", "green"), ("changes", "yellow"),
    ("exited", "dim"), ("created", "dim"), ("paused", "yellow"),
)  # fmt: skip


def lines(columns: Sequence[str], rows: Sequence[Sequence[str]], titles: Mapping[str, str] | None = None) -> list[str]:
    """A header and the rows, drawn; `titles` are what columns are called instead of their names.

    Where the terminal is too narrow for all of it, columns of lesser weight become shorter and then are left out: a
    name, a state or a number is shown whole as long as there is room for these at all.
    """
    made = [_column(name, [row[place] for row in rows], titles or {}) for place, name in enumerate(columns)]
    made = _fitted(made, screen.size()[0])
    looks = [screen.host_colour if column.name == "host" else style for column in made]
    drawn = [_line([column.head for column in made], made, ["bold"] * len(made))]
    drawn += [
        _line(cells, made, [look(cell) for look, cell in zip(looks, cells, strict=True)])
        for cells in zip(*(column.cells for column in made), strict=True)
    ]
    return drawn


@dataclass(frozen=True)
class _Column:
    """One column: its cells, how wide it is drawn, and whether it holds numbers."""

    name: str
    head: str
    cells: Sequence[str]
    width: int
    number: bool

    @property
    def rigid(self) -> bool:
        """Whether a part of a cell would say something else, or nothing."""
        return self.number or self.name in KEPT

    @property
    def floor(self) -> int:
        """What it is not cut below."""
        return self.width if self.rigid else min(self.width, max(NARROWEST, screen.width(self.head)))


def _column(name: str, cells: Sequence[str], titles: Mapping[str, str]) -> _Column:
    shown = [text.one_line(text.short_status(cell) if name == "status" else cell) for cell in cells]
    head = titles.get(name, name.replace("_percent", " %").replace("_", " ")).upper()
    filled = [cell for cell in shown if cell]
    number = bool(filled) and all(map(_NUMBER.fullmatch, filled))
    return _Column(name, head, shown, max(map(screen.width, [head, *shown])), number)


def _fitted(columns: Sequence[_Column], room: int) -> list[_Column]:
    """The columns that there is room for, the widest cut first; at last what must be kept is cut, too."""
    kept = list(columns)
    while _total([column.floor for column in kept]) > room:
        lesser = [column for column in kept if column.name not in KEPT]
        if not lesser:
            return _cut(kept, [min(column.width, NARROWEST) for column in kept], room)
        # Text that has become too short to say anything goes before numbers, and those from the right.
        kept.remove(max(reversed(lesser), key=lambda column: 0 if column.number else column.width))
    return _cut(kept, [column.floor for column in kept], room)


def _cut(columns: Sequence[_Column], floors: Sequence[int], room: int) -> list[_Column]:
    widths = [column.width for column in columns]
    while _total(widths) > room:
        spare = [wide - floor for wide, floor in zip(widths, floors, strict=True)]
        if not any(spare):
            break
        widths[max(range(len(widths)), key=lambda at: widths[at] if spare[at] else -1)] -= 1
    return [replace(column, width=wide) for column, wide in zip(columns, widths, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def style(cell: str) -> str:
    """Colour by what a state says, on any table."""
    low = cell.lower()
    if "(unhealthy)" in low:
        return "red"
    if full := _SHARE.match(cell):
        return "red" if int(full[1]) >= 90 else "yellow" if int(full[1]) >= 75 else "green"
    return next((colour for start, colour in _STYLES if low.startswith(start) and len(low) < 200), "")


def _line(cells: Sequence[str], columns: Sequence[_Column], styles: Sequence[str]) -> str:
    drawn = []
    for cell, column, look in zip(cells, columns, styles, strict=True):
        words = screen.cut(cell, column.width)
        pad = " " * (column.width - screen.width(words))
        drawn.append(pad + screen.paint(words, look) if column.number else screen.paint(words, look) + pad)
    return (" " * GAP).join(drawn).rstrip()
