"""Mutes: for some time, no notices about everything, a host or a container. Kept in a file that the watch reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from anvyl_mcp.core.files import write_atomically


@dataclass(frozen=True, slots=True)
class Mute:
    """No notices until a moment (Unix time). Empty `host` and `subject` mean every one."""

    until: float
    host: str = ""
    subject: str = ""

    def covers(self, host: str, subject: str, at: float) -> bool:
        """Whether it holds for a host and a container (or disk) at a moment."""
        return at < self.until and self.host in ("", host) and self.subject in ("", subject)


class MuteStore:
    """The mutes of this installation."""

    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / "mutes.json"

    def active(self, at: float) -> list[Mute]:
        """Return the mutes that have not ended; a damaged file has none."""
        try:
            rows = json.loads(self._file.read_text(encoding="utf-8"))
            return [mute for mute in (Mute(**row) for row in rows) if mute.until > at]
        except (OSError, ValueError, TypeError):
            return []

    def add(self, mute: Mute, at: float) -> None:
        """Add a mute; it replaces one of the same things.

        Raises:
            OSError: the file cannot be written.
        """
        others = [one for one in self.active(at) if (one.host, one.subject) != (mute.host, mute.subject)]
        self._write([*others, mute])

    def clear(self, at: float) -> int:
        """End all mutes; returns how many there were.

        Raises:
            OSError: the file cannot be written.
        """
        ended = len(self.active(at))
        if ended:
            self._write([])
        return ended

    def _write(self, mutes: list[Mute]) -> None:
        write_atomically(self._file, json.dumps([asdict(mute) for mute in mutes]))
