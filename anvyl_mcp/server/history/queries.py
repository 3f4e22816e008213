"""Reads events, last lines and gaps from the history."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.server.history.episodes import Episode, RecordedEvent
from anvyl_mcp.server.history.store import MICROSECOND, HistoryStore

MAX_EVENTS_READ = 10_000
GAP = 150 * MICROSECOND
"""A minute is recorded in each minute, so a longer silence is a gap."""
NO_END = 2**62
MAX_NAMES = 2000
FORMER_NAME = "was "
"""Begin of the `detail` of a rename."""


RunningState = Literal["", "running", "ended"]


@dataclass(frozen=True, slots=True)
class Period:
    """A time in microseconds since 1970, exclusive at its end."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ChangeWithoutEvent:
    """A change through Anvyl that no event shows: it failed, or it changed nothing that the engine reports."""

    at: int
    who: str
    tool: str
    objects: tuple[str, ...]
    outcome: str
    operation: str


@dataclass(frozen=True, slots=True)
class ClockJump:
    """The clock was set, to `at` in microseconds, by so many seconds forward."""

    at: int
    seconds: int


def find_subjects(db: sqlite3.Connection, name: str) -> list[int]:
    """Containers, images, networks and volumes of a name, an id or a Compose project; also if it is gone or renamed."""
    rows = db.execute(
        "SELECT n FROM subject WHERE n > 0 AND kind != 'disk' AND (name = :name OR project = :name"
        " OR (length(:name) >= 6 AND (substr(id, 1, length(:name)) = :name OR substr(id, 8, length(:name)) = :name)))"
        " UNION SELECT subject FROM event WHERE action = 'rename' AND detail = :former",
        {"name": name, "former": FORMER_NAME + name},
    )
    return [number for (number,) in rows]


def former_names(db: sqlite3.Connection, subjects: Sequence[int], name: str) -> list[str]:
    """Sentences about the containers among these that had this name, if none has it now."""
    rows = db.execute(f"SELECT DISTINCT name, project FROM subject WHERE n IN ({', '.join(map(str, subjects))})")
    names = {one for row in rows for one in row}
    renamed = db.execute(
        "SELECT DISTINCT name FROM subject JOIN event ON subject = subject.n WHERE action = 'rename' AND detail = ?",
        (FORMER_NAME + name,),
    )
    return [] if name in names else [f"`{name}` was renamed to `{now}`" for (now,) in renamed]


def running_state(db: sqlite3.Connection, subjects: Sequence[int]) -> tuple[RunningState, int | None]:
    """Whether one of these containers runs, and since when; or when the last one ended."""
    row = db.execute(
        f"SELECT action, at FROM event WHERE subject IN ({', '.join(map(str, subjects))})"
        " AND action IN ('start', 'die') ORDER BY at DESC, action DESC LIMIT 1"
    ).fetchone()
    return ("", None) if row is None else ("running" if row[0] == "start" else "ended", int(row[1]))


def known_names(db: sqlite3.Connection) -> list[str]:
    """Names of containers with a history."""
    rows = db.execute("SELECT DISTINCT name FROM subject WHERE kind = 'container' LIMIT ?", (MAX_NAMES,))
    return [name for (name,) in rows]


def read_events(db: sqlite3.Connection, period: Period, subjects: Sequence[int] | None = None) -> list[RecordedEvent]:
    """The newest events of a period, of some objects or all, newest first."""
    chosen = "" if subjects is None else f" AND event.subject IN ({', '.join(map(str, map(int, subjects)))})"
    rows = db.execute(
        "SELECT event.n, at, event.subject, kind, id, name, image, action, code, detail, coalesce(who, ''),"
        " coalesce(tool, ''), coalesce(operation, '') FROM event JOIN subject ON subject.n = event.subject"
        f" LEFT JOIN change ON change.n = event.change WHERE at >= ? AND at < ?{chosen} ORDER BY at DESC LIMIT ?",
        (period.start, period.end, MAX_EVENTS_READ),
    )
    return [RecordedEvent(*row) for row in rows]


def changes_without_events(
    db: sqlite3.Connection, period: Period, about: Sequence[str] | None = None
) -> list[ChangeWithoutEvent]:
    """Changes through Anvyl that caused no event. `about`: names of objects, or None for all."""
    rows = db.execute(
        "SELECT began, who, tool, objects, outcome, operation FROM change WHERE began >= ? AND began < ?"
        " AND NOT EXISTS (SELECT 1 FROM event WHERE event.change = change.n AND at >= began - 2000000)"
        " ORDER BY began DESC LIMIT ?",
        (period.start, period.end, MAX_NAMES),
    )
    found = []
    for began, who, tool, objects, outcome, operation in rows:
        names = tuple(dict.fromkeys(one.partition(" ")[2] for one in objects.split("\n") if one))
        if about is None or not set(names).isdisjoint(about):
            found.append(ChangeWithoutEvent(began, who, tool, names[:1], outcome, operation))
    return found


def last_lines(db: sqlite3.Connection, episode: Episode) -> list[str]:
    """The last log lines before an end, or before the last one of several that was kept."""
    row = db.execute(
        "SELECT lines FROM last_lines WHERE subject = ? AND at BETWEEN ? AND ? ORDER BY at DESC LIMIT 1",
        (episode.ended, episode.first, episode.last),
    ).fetchone()
    return zlib.decompress(row[0]).decode().split("\n") if row else []


def has_last_lines(history: HistoryStore, name: str) -> bool:
    """Whether last log lines of a container of this name are kept. False if the history cannot be read."""

    def query(db: sqlite3.Connection) -> bool:
        marks = ", ".join(map(str, find_subjects(db, name)))
        return bool(db.execute(f"SELECT 1 FROM last_lines WHERE subject IN ({marks}) LIMIT 1").fetchone())

    try:
        return history.read(query)
    except AnvylError:
        return False


def kept_since(db: sqlite3.Connection) -> int | None:
    """When recording began; None if it never ran."""
    found = db.execute("SELECT min(began) FROM span").fetchone()[0]
    return None if found is None else int(found)


def last_jump(db: sqlite3.Connection, period: Period) -> ClockJump | None:
    """The last time in a period when the clock was set."""
    row = db.execute(
        "SELECT at, seconds FROM jump WHERE at BETWEEN ? AND ? ORDER BY n DESC LIMIT 1", (period.start, period.end)
    ).fetchone()
    return None if row is None else ClockJump(*row)


def gaps(db: sqlite3.Connection, period: Period, *, recording: bool) -> list[Period]:
    """Parts of a period in which nothing was recorded, after recording first began; not where the clock jumped."""
    rows = db.execute(
        "SELECT began, ended FROM span WHERE ended >= ? AND began < ? ORDER BY began", (period.start, period.end)
    ).fetchall()
    before = db.execute("SELECT max(ended) FROM span WHERE ended < ?", (period.start,)).fetchone()[0]
    found: list[Period] = []
    last = max(period.start, before) if before is not None else None
    for began, ended in rows:
        if last is not None and began - last > GAP:
            found.append(Period(last, began))
        last = ended if last is None else max(last, ended)
    if last is not None and period.end - last > GAP and not (recording and rows and rows[-1][1] == last):
        found.append(Period(last, period.end))
    jumps = {at for (at,) in db.execute("SELECT at FROM jump")}
    return [gap for gap in found if gap.end not in jumps]
