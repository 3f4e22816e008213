"""The terminal: how wide it is, whether it has colours, and lines that are drawn over until they are final."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from anvyl_mcp.cli import echo
from anvyl_mcp.text import ANSI

CODES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}
HOST_COLOURS = ("cyan", "magenta", "yellow", "blue", "green")


def coloured(stream: TextIO) -> bool:
    """Whether it is a terminal that may be sent colours."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(words: str, style: str, stream: TextIO | None = None) -> str:
    """`words` in a style, where the stream (stdout) has colours."""
    if not style or not words or not coloured(stream or sys.stdout):
        return words
    return f"\x1b[{CODES[style]}m{words}\x1b[0m"


def host_colour(name: str) -> str:
    """A colour for a host, or whatever else lines begin with: others get other ones, as long as there are some."""
    return _given.setdefault(name, HOST_COLOURS[len(_given) % len(HOST_COLOURS)])


_given: dict[str, str] = {}


def size(stream: TextIO | None = None) -> tuple[int, int]:
    """Columns and lines of the terminal behind a stream (stdout); `COLUMNS` and `LINES` win."""
    fallback = (80, 24)
    if stream is not None and not os.environ.get("COLUMNS"):
        with suppress(OSError, ValueError):
            columns, lines = os.get_terminal_size(stream.fileno())
            return columns or fallback[0], lines or fallback[1]
    return shutil.get_terminal_size(fallback)


def wrapped(words: str, stream: TextIO, indent: int = 0) -> str:
    """`words` broken between words where the terminal ends; later lines are indented. Unchanged in a pipe."""
    if not stream.isatty():
        return words
    room = size(stream)[0]
    return "\n".join("\n".join(_broken(line, room, indent)) for line in words.split("\n"))


def _broken(line: str, room: int, indent: int) -> list[str]:
    lines, line = [], line.rstrip()
    indent += len(line) - len(line.lstrip())
    while width(line) > room:
        # A word that alone is wider than the terminal is left to the terminal, so that it can be copied whole.
        start = len(line) - len(line.lstrip())
        fits = len(_head(line, room + 1))
        place = line.rfind(" ", start, fits)
        place = place if place > start else line.find(" ", max(fits, start))
        if place < 0:
            break
        lines.append(line[:place].rstrip())
        line = " " * indent + line[place:].lstrip()
    return [*lines, line]


def width(words: str) -> int:
    """Columns that text without control characters takes."""
    if words.isascii():
        return len(words)
    return sum(_width(letter) for letter in words)


def _width(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def cut(words: str, room: int) -> str:
    """At most `room` columns of `words`; a single long word keeps its end too, which is where tags and versions are."""
    if width(words) <= room:
        return words
    if room < 8 or " " in words:
        return _head(words, room - 1) + "…"
    tail = (room - 1) // 2
    return _head(words, room - 1 - tail) + "…" + _head(words[::-1], tail)[::-1]


def _head(words: str, room: int) -> str:
    taken = ""
    for letter in words:
        room -= _width(letter)
        if room < 0:
            break
        taken += letter
    return taken


class Live:
    """Lines at the end of a terminal, drawn over with every `show`. Lines must be no wider than the terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn: list[str] = []

    def show(self, lines: Sequence[str]) -> None:
        """Draw these in the place of those before; what does not fit on the screen is left out."""
        # Keys typed meanwhile would move what is drawn over.
        echo.off()
        fitting = list(lines)[: size(self._stream)[1] - 1]
        self._write(fitting)
        self._drawn = fitting

    def end(self, lines: Sequence[str] = ()) -> bool:
        """Draw the final lines, all of them; later ones go below. Whether others were there."""
        self._write(lines)
        drawn, self._drawn = bool(self._drawn), []
        echo.on()
        return drawn

    def _write(self, lines: Sequence[str]) -> None:
        # A terminal that became narrower since has broken what was drawn.
        columns = size(self._stream)[0]
        rows = sum(max(1, -(-width(ANSI.sub("", line)) // columns)) for line in self._drawn)
        erase = f"\x1b[{rows}F\x1b[J" if rows else ""
        if erase or lines:
            self._stream.write(erase + "".join(f"{line}\n" for line in lines))
            self._stream.flush()
