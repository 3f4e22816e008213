"""Render a log line as a terminal would show it: its last state, without control sequences, at limited length."""

from __future__ import annotations

import re
from collections.abc import Iterator

from anvyl_mcp.core import text
from anvyl_mcp.core.redaction.key_blocks import KeyBlockRedactor
from anvyl_mcp.core.redaction.redact_text import redact_text
from anvyl_mcp.server.engine.logs.frames import MAX_LINE_CHARACTERS, LogLine

LINE_RESET = re.compile(r"\r+|\x1b\[(?:[01]?G|2K)")
"""Sequences that return to the start of the line, with which a progress bar overwrites itself."""
MAX_STATES = 2000
CONTEXT_BEFORE = MAX_LINE_CHARACTERS // 4
"""Characters shown before a match deep inside a line."""


def visible_text(line: LogLine, wanted: str, blocks: KeyBlockRedactor) -> str | None:
    """The line's last state; with `wanted`, an excerpt of the last state that contains it, or None."""
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
    """States of the line, the latest first, without blank ones."""
    for state in reversed(LINE_RESET.split(written)[-MAX_STATES:]):
        if state.strip():
            yield _without_backspaces(state) if "\b" in state else state


def _without_backspaces(state: str) -> str:
    """Apply backspaces: each removes the character before it."""
    left: list[str] = []
    for char in state.rstrip("\b"):
        if char != "\b":
            left.append(char)
        elif left:
            left.pop()
    return "".join(left)


def _contains(visible: str, wanted: str) -> bool:
    """Whether the line contains the text also after masking: a match on a secret would reveal it."""
    return wanted in visible.casefold() and wanted in redact_text(visible).casefold()


def _excerpt(visible: str, wanted: str, dropped_bytes: int) -> str:
    """The part of the line around the match; masked before cutting, as a part of a secret would not be recognized."""
    if len(visible) <= MAX_LINE_CHARACTERS:
        return _cut(visible, 0, dropped_bytes)
    hidden = redact_text(visible)
    at = _position(hidden, wanted)
    return _cut(hidden, at - CONTEXT_BEFORE if at + len(wanted) > MAX_LINE_CHARACTERS else 0, dropped_bytes)


def _position(line: str, wanted: str) -> int:
    """Index of the match in the original line; case folding makes some characters longer."""
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
