"""The notices of the last watch, in a file for those who look: what is wrong now, and what happened lately."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.peers.notices.notice import Notice

log = logging.getLogger(__name__)

MOST_OPEN = 200
MOST_PAST = 30
ABOUT_WATCH = "watch"
"""Kind of the notices about the watch itself, which no check finds."""


@dataclass(frozen=True, slots=True)
class RecentNotices:
    """Unix time of the last check (0: none), seconds between checks, problems and what is over, each newest first."""

    checked: float = 0.0
    every: float = 0.0
    problems: tuple[Notice, ...] = ()
    past: tuple[Notice, ...] = ()


class RecentNoticesFile:
    """The file of the watch of this installation that sends the notices."""

    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / "notices.json"
        self._failed = False

    def read(self) -> RecentNotices:
        """Return the notices; a damaged file has none."""
        try:
            row = json.loads(self._file.read_text(encoding="utf-8"))
            problems, past = (tuple(_parse(one) for one in row[name]) for name in ("problems", "past"))
            return RecentNotices(float(row["checked"]), float(row["every"]), problems, past)
        except (OSError, ValueError, TypeError, KeyError):
            return RecentNotices()

    def add(self, notices: Sequence[Notice]) -> None:
        """Add notices between two checks."""
        before = self.read()
        self._write(before.checked, before.every, before.problems, before.past, notices)

    def record_check(self, every: float, known: Collection[tuple[str, ...]], notices: Sequence[Notice]) -> None:
        """Record a check that found `notices`. Problems whose key is not `known` any more end without a notice."""
        before = self.read()
        problems = [one for one in before.problems if one.key in known or one.key[1:2] == (ABOUT_WATCH,)]
        self._write(time.time(), every, problems, before.past, notices)

    def _write(
        self, checked: float, every: float, problems: Sequence[Notice], past: Sequence[Notice], new: Sequence[Notice]
    ) -> None:
        changed = {one.key for one in new}
        began = [one for one in new if one.level == "problem"]
        over = [one for one in new if one.level != "problem"]
        rows = {
            "checked": checked,
            "every": every,
            "problems": [_row(one) for one in (*began, *(one for one in problems if one.key not in changed))][
                :MOST_OPEN
            ],
            "past": [_row(one) for one in (*over, *past)][:MOST_PAST],
        }
        try:
            write_atomically(self._file, json.dumps(rows), durable=False)
            self._failed = False
        except OSError as error:
            # A watch goes on without it.
            if not self._failed:
                log.warning("%s cannot be written: %s", self._file, error.strerror)
            self._failed = True


def _row(notice: Notice) -> dict[str, Any]:
    return {
        "title": notice.title,
        "body": notice.body,
        "level": notice.level,
        "at": notice.at,
        "key": list(notice.key),
        "urgent": notice.urgent,
    }


def _parse(row: dict[str, Any]) -> Notice:
    return Notice(**{**row, "key": tuple(row["key"])})
