"""The terminal: how wide it is, whether it has colours, and lines that are drawn over until they are final."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from typing import TextIO

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


def size() -> tuple[int, int]:
    """Columns and lines of the terminal; `COLUMNS` and `LINES` win."""
    return shutil.get_terminal_size((80, 24))


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
        self._drawn = 0

    def show(self, lines: Sequence[str]) -> None:
        """Draw these in the place of those before; what does not fit on the screen is left out."""
        fitting = list(lines)[: size()[1] - 1]
        self._write(fitting)
        self._drawn = len(fitting)

    def end(self, lines: Sequence[str] = ()) -> bool:
        """Draw the final lines, all of them; later ones go below. Whether others were there."""
        self._write(lines)
        drawn, self._drawn = self._drawn > 0, 0
        return drawn

    def _write(self, lines: Sequence[str]) -> None:
        erase = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        if erase or lines:
            self._stream.write(erase + "".join(f"{line}\n" for line in lines))
            self._stream.flush()
