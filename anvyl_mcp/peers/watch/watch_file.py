"""What a watch leaves for the next one: when it last checked, and the problems that it reported."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.peers.watch.troubles import Trouble

log = logging.getLogger(__name__)

PATIENCE_CHECKS = 3
PATIENCE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class WatchState:
    """Unix time of the last check (0: none), seconds between checks, and the problems with their beginnings."""

    checked: float = 0.0
    every: float = 0.0
    known: Mapping[Trouble, float] = field(default_factory=dict)

    def is_alive(self, now: float) -> bool:
        """Whether a watch still checks."""
        return 0 <= now - self.checked <= PATIENCE_CHECKS * self.every + PATIENCE_SECONDS


class WatchFile:
    """The file of the watch of this installation's server."""

    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / "watch.json"
        self._failed = False

    def read(self) -> WatchState:
        """Return the state; a damaged file is an empty one."""
        try:
            row = json.loads(self._file.read_text(encoding="utf-8"))
            known = {Trouble(**one["trouble"]): float(one["began"]) for one in row["known"]}
            return WatchState(float(row["checked"]), float(row["every"]), known)
        except (OSError, ValueError, TypeError, KeyError):
            return WatchState()

    def write(self, every: float, known: Mapping[Trouble, float]) -> None:
        """Record a check. A watch goes on if it cannot be written."""
        rows = [{"trouble": asdict(trouble), "began": began} for trouble, began in known.items()]
        try:
            write_atomically(
                self._file, json.dumps({"checked": time.time(), "every": every, "known": rows}), durable=False
            )
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("%s cannot be written: %s", self._file, error.strerror)
            self._failed = True
