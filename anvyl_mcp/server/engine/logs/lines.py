"""One line of a log as a person sees it: its last state, without what moves a cursor, and not endlessly long."""

from __future__ import annotations

import re
from collections.abc import Iterator

from anvyl_mcp.core import text
from anvyl_mcp.core.redaction.key_blocks import KeyBlockRedactor
from anvyl_mcp.core.redaction.redact_text import redact_text
from anvyl_mcp.server.engine.logs.frames import MAX_LINE_CHARACTERS, LogLine

LINE_RESET = re.compile(r"\r+|\x1b\[(?:[01]?G|2K)")
"""What takes a terminal back to the beginning of its line: progress is written so, each state over the one before."""
MAX_STATES = 2000
CONTEXT_BEFORE = MAX_LINE_CHARACTERS // 4
"""Characters shown before a match that stands far inside a line."""


def visible_text(line: LogLine, wanted: str, blocks: KeyBlockRedactor) -> str | None:
    """The line's last state; with `wanted`, the last that holds it, from shortly before it on, or None."""
    written = line.text.decode("utf-8", "replace")
    if wanted and wanted not in text.clean(written).casefold() and not LINE_RESET.search(written):
        blocks.redact(text.clean(written))
        return None
    last = None if wanted else ""
    for state in _states(written):
        visible = blocks.redact(text.clean(state))
        if not wanted:
            return _cut(visible, 0, line.dropped_bytes)
        if _contains(visible, wanted):
            return _excerpt(visible, wanted, line.dropped_bytes)
    return last


def _states(written: str) -> Iterator[str]:
    """What stood in the line, the latest first; blank states only wipe others away."""
    for state in reversed(LINE_RESET.split(written)[-MAX_STATES:]):
        if state.strip():
            yield _without_backspaces(state) if "\b" in state else state


def _without_backspaces(state: str) -> str:
    """A character before a backspace is written over by the one after it."""
    left: list[str] = []
    for char in state.rstrip("\b"):
        if char != "\b":
            left.append(char)
        elif left:
            left.pop()
    return "".join(left)


def _contains(visible: str, wanted: str) -> bool:
    """Whether a line holds the words also where secrets are hidden: finding a line by its secret would tell it."""
    return wanted in visible.casefold() and wanted in redact_text(visible).casefold()


def _excerpt(visible: str, wanted: str, dropped_bytes: int) -> str:
    """The part of a line in which the words stand, cut only once its secrets are hidden: a part alone hides none."""
    if len(visible) <= MAX_LINE_CHARACTERS:
        return _cut(visible, 0, dropped_bytes)
    hidden = redact_text(visible)
    at = _position(hidden, wanted)
    return _cut(hidden, at - CONTEXT_BEFORE if at + len(wanted) > MAX_LINE_CHARACTERS else 0, dropped_bytes)


def _position(line: str, wanted: str) -> int:
    """Where the words begin; folding makes some characters longer."""
    folded = line.casefold().index(wanted)
    if len(line.casefold()) == len(line):
        return folded
    length = 0
    for number, char in enumerate(line):
        if length >= folded:
            return number
        length += len(char.casefold())
    return len(line)


def _cut(line: str, start: int, dropped_bytes: int) -> str:
    left = dropped_bytes + max(0, len(line) - start - MAX_LINE_CHARACTERS)
    before = f"{start} characters before …" if start else ""
    after = f"… {left} more characters" if left else ""
    return f"{before}{line[start : start + MAX_LINE_CHARACTERS]}{after}"
