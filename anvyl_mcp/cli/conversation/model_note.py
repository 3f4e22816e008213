"""Shows the note `no language model` at most once a day."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.orchestrator.reply import NO_MODEL

FILE = "model_note"
"""In the state folder: the last note shown; its modification time is when it was shown."""


def notes_to_show(notes: Sequence[str], folder: Path) -> list[str]:
    """Drop the note on the missing model if the same one was shown today; otherwise record it as shown."""
    shown = [note for note in notes if not note.startswith(NO_MODEL) or not _shown_today(note, folder / FILE)]
    for note in shown:
        if note.startswith(NO_MODEL):
            _record(note, folder / FILE)
    return shown


def _shown_today(note: str, file: Path) -> bool:
    with suppress(OSError, ValueError):
        return file.read_text(encoding="utf-8") == note and _day(file.stat().st_mtime) == _day(time.time())
    return False


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def _record(note: str, file: Path) -> None:
    # If this fails, the note is only shown again.
    with suppress(OSError):
        write_atomically(file, note, durable=False)
