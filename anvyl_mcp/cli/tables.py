"""Tables as a person would photograph them: aligned, coloured by what cells say, no wider than the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from anvyl_mcp.cli import screen

GAP = 2
NARROWEST = 8
"""What a column is not cut below."""
_NUMBER = re.compile(r"-?[\d.,]+( ?(%|[KMGT]?i?B|s|min|h|days|ms))?")
_SHARE = re.compile(r"[█░]+ +(\d+) %")
_STYLES = (
    ("unhealthy", "red"), ("dead", "red"), ("restarting", "red"), ("unreachable", "red"), ("timeout", "red"),
    ("engine_", "red"), ("refused", "red"), ("denied", "red"), ("unknown", "red"), ("destroys", "red"),
    ("altered", "red"), ("unpaired", "yellow"),
    ("up ", "green"), ("running", "green"), ("ok", "green"), ("changes", "yellow"),
    ("exited", "dim"), ("created", "dim"), ("paused", "yellow"),
)  # fmt: skip


def lines(columns: Sequence[str], rows: Sequence[Sequence[str]], titles: Mapping[str, str] | None = None) -> list[str]:
    """A header and the rows, drawn; `titles` are what columns are called instead of their names."""
    heads = [
        (titles or {}).get(column, column.replace("_percent", " %").replace("_", " ")).upper() for column in columns
    ]
    widths = _fit([max(map(screen.width, cells)) for cells in zip(heads, *rows, strict=True)], heads)
    right = [
        bool(rows) and all(_NUMBER.fullmatch(row[place]) for row in rows if row[place]) for place in range(len(heads))
    ]
    right = [each and any(row[place] for row in rows) for place, each in enumerate(right)]
    drawn = [_line(heads, widths, right, ["bold"] * len(heads))]
    for row in rows:
        styles = [
            screen.host_colour(cell) if name == "host" else style(cell) for name, cell in zip(columns, row, strict=True)
        ]
        drawn.append(_line(row, widths, right, styles))
    return drawn


def style(cell: str) -> str:
    """Colour by what a state says, on any table."""
    low = cell.lower()
    if "(unhealthy)" in low:
        return "red"
    if full := _SHARE.match(cell):
        return "red" if int(full[1]) >= 90 else "yellow" if int(full[1]) >= 75 else "green"
    return next((colour for start, colour in _STYLES if low.startswith(start) and len(low) < 200), "")


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], styles: Sequence[str]) -> str:
    drawn = []
    for cell, room, number, look in zip(cells, widths, right, styles, strict=True):
        words = screen.cut(cell.replace("\t", " ").replace("\n", " "), room)
        pad = " " * (room - screen.width(words))
        drawn.append(pad + screen.paint(words, look) if number else screen.paint(words, look) + pad)
    return (" " * GAP).join(drawn).rstrip()


def _fit(natural: list[int], heads: Sequence[str]) -> list[int]:
    """Widths that fit the terminal: the widest column gives way first."""
    widths = list(natural)
    floors = [min(wide, max(NARROWEST, len(head))) for wide, head in zip(natural, heads, strict=True)]
    room = screen.size()[0] - GAP * (len(widths) - 1)
    while sum(widths) > room:
        spare = [wide - floor for wide, floor in zip(widths, floors, strict=True)]
        if not any(spare):
            break
        place = max(range(len(widths)), key=lambda at: widths[at] if spare[at] else -1)
        widths[place] -= 1
    return widths
