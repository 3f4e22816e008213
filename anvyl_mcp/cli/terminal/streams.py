"""Configure stdin, stdout and stderr so that no character fails, whatever their encoding is."""

from __future__ import annotations

import codecs
import sys
from contextlib import suppress
from io import TextIOWrapper, UnsupportedOperation

ERROR_HANDLER = "anvyl-plain"
REPLACEMENTS = str.maketrans("…→×█░━─│✓✗·–—“”‘’", "~>x#.=-|+x.--\"\"''")
"""Our non-ASCII characters and their replacements, which have the same width to keep tables aligned."""


def configure_streams() -> None:
    """Replace characters that cannot be encoded or decoded."""
    codecs.register_error(ERROR_HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=ERROR_HANDLER)
    if isinstance(sys.stdin, TextIOWrapper):
        # Fails if the program that calls us has already read from it.
        with suppress(UnsupportedOperation):
            sys.stdin.reconfigure(errors="replace")


def is_unicode(encoding: str | None) -> bool:
    """Whether an encoding has every character."""
    return (encoding or "").lower().replace("_", "-").startswith("utf")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end].translate(REPLACEMENTS)
    return "".join(letter if letter.isascii() else "?" for letter in letters), error.end
