"""The note that no language model answered: worth a line once a day, not above every answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.orchestrator.reply import NO_MODEL

FILE = "model_note"
"""In the state folder: the note that was shown last; the day is the file's own."""


def due(notes: Sequence[str], folder: Path) -> list[str]:
    """The notes without one on the missing model that was shown today already; another reason is told at once."""
    found = [note for note in notes if not note.startswith(NO_MODEL) or not _shown_today(note, folder / FILE)]
    for note in found:
        if note.startswith(NO_MODEL):
            _keep(note, folder / FILE)
    return found


def _shown_today(note: str, file: Path) -> bool:
    with suppress(OSError, ValueError):
        return file.read_text(encoding="utf-8") == note and _day(file.stat().st_mtime) == _day(time.time())
    return False


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def _keep(note: str, file: Path) -> None:
    # Where it cannot be kept the note is shown again, which does no harm.
    with suppress(OSError):
        write_atomically(file, note, durable=False)
