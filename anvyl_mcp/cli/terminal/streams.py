"""Standard streams that never fail over a letter, whatever encoding the terminal or `PYTHONIOENCODING` asks for."""

from __future__ import annotations

import codecs
import sys
from contextlib import suppress
from io import TextIOWrapper, UnsupportedOperation

ERROR_HANDLER = "anvyl-plain"
REPLACEMENTS = str.maketrans("…→×█░━─│✓✗·–—“”‘’", "~>x#.=-|+x.--\"\"''")
"""Letters of ours and what stands for them where they cannot be written; as wide, so that tables stay aligned."""


def configure_streams() -> None:
    """Write what an encoding lacks in plain letters, and read what is no text as such."""
    codecs.register_error(ERROR_HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=ERROR_HANDLER)
    if isinstance(sys.stdin, TextIOWrapper):
        # A program that calls us may have read from it already; then it cannot be changed any more.
        with suppress(UnsupportedOperation):
            sys.stdin.reconfigure(errors="replace")


def is_unicode(encoding: str | None) -> bool:
    """Whether every letter can be written in it."""
    return (encoding or "").lower().replace("_", "-").startswith("utf")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end].translate(REPLACEMENTS)
    return "".join(letter if letter.isascii() else "?" for letter in letters), error.end
