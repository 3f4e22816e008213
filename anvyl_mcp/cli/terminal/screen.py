"""Consoles, colours and line wrapping for terminals.

Functions import rich themselves: it takes 0.02 s, and output to a pipe does not need it.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TextIO

if TYPE_CHECKING:
    from rich.console import Console


class TableData(NamedTuple):
    """Content of a table; `titles` replace names of columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    titles: Mapping[str, str]


HOST_COLOURS = ("cyan", "magenta", "yellow", "blue", "green")


@cache
def console(stream: TextIO) -> Console:
    """Return the console of a stream, without markup, because hosts send text. rich reads `NO_COLOR` and `COLUMNS`."""
    from rich.console import Console, ConsoleDimensions

    terminal = Console(file=stream, markup=False, emoji=False, highlight=False)
    if not all(terminal.size):
        # rich takes `COLUMNS=0` as a width of zero; elsewhere it means an unknown width.
        terminal.size = ConsoleDimensions(*shutil.get_terminal_size())
    return terminal


def paint(words: str, style: str, stream: TextIO | None = None) -> str:
    """Style a text, if the stream (default: stdout) is a terminal with colours."""
    stream = stream or sys.stdout
    if not (style and words and stream.isatty()):
        return words
    screen = console(stream)
    return words if screen.no_color or not screen.color_system else screen.get_style(style).render(words)


def host_colour(name: str) -> str:
    """Return the colour of a host or another label; they differ until the colours run out."""
    return _colours.setdefault(name, HOST_COLOURS[len(_colours) % len(HOST_COLOURS)])


_colours: dict[str, str] = {}


def wrap(words: str, stream: TextIO, indent: int = 0) -> str:
    """Wrap a text between words at the terminal width, and indent the later lines. Unchanged in a pipe."""
    if not stream.isatty():
        return words
    room = console(stream).width
    return "\n".join("\n".join(_wrap_line(line, room, indent)) for line in words.split("\n"))


def _wrap_line(line: str, room: int, indent: int) -> list[str]:
    from rich.cells import cell_len

    lines = [""]
    indent += len(line) - len(line.lstrip())
    for word in re.findall(r"\s*\S+", line):
        # rich would break a word that is wider than the terminal, and it could not be copied.
        if lines[-1] and cell_len(lines[-1] + word) > room:
            lines.append(" " * indent + word.lstrip())
        else:
            lines[-1] += word
    return lines
