"""What is written to the history: events, last log lines, changes, and when recording ran."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.core.redaction.redact_text import redact_lines
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.logs import reader
from anvyl_mcp.server.engine.timestamps import to_nanoseconds
from anvyl_mcp.server.history.engine_events import COMPOSE_PROJECT, HEALTH, EngineEvent
from anvyl_mcp.server.history.store import MICROSECOND, HistoryStore, known_name, subject_number
from anvyl_mcp.server.policy.guardrails import is_hidden
from anvyl_mcp.server.policy.object_names import lasting_name

LAST_LINES = 50
MAX_LINE = 500
"""Characters of one last line."""
LINES_EVERY = 300 * MICROSECOND
"""A container that keeps crashing keeps the lines of one death in five minutes: the newest."""
MAX_EVENTS_A_DAY = 20_000
"""Some program that starts a container every second must not push out the history of all others."""
CHANGE_GRACE = MICROSECOND // 20
"""An event belongs to a change only if it happened while it ran: somebody else may act a moment later."""
LONGEST_CHANGE = 1800 * MICROSECOND
SAME_MOMENT = 2 * MICROSECOND
"""What the engine says about a container now and its event may differ by this much."""
DERIVED = -1
"""The `change` of events that are derived from the state of a container."""
PRUNED_ACTIONS = ("destroy", "delete")

ADD_EVENT = "INSERT OR IGNORE INTO event (at, subject, action, code, detail, change) VALUES (?, ?, ?, ?, ?, ?)"


def add_event(db: sqlite3.Connection, event: EngineEvent, *, derived: bool = False) -> int:
    """Record an event once, with the change that caused it; return its number, or 0 if it is not new.

    `derived`: it is not the engine's own event, which replaces it if it comes later.
    """
    if event.action == "rename" and not event.detail and (before := known_name(db, event.kind, event.id)):
        event = replace(event, detail=f"was {before}")  # Podman does not say it
    number = subject_number(db, event.kind, event.id, event.name, image=event.image, project=event.project)
    if event.action == HEALTH and _last_health(db, number) == event.detail:
        return 0  # Podman repeats it after every check
    day = event.at - event.at % (86400 * MICROSECOND)
    if db.execute("SELECT count(*) FROM event WHERE at >= ?", (day,)).fetchone()[0] >= MAX_EVENTS_A_DAY:
        return 0
    if not derived:
        around = event.at - SAME_MOMENT, event.at + SAME_MOMENT
        db.execute(
            "DELETE FROM event WHERE subject = ? AND action = ? AND change = ? AND at BETWEEN ? AND ?",
            (number, event.action, DERIVED, *around),
        )
    cause = DERIVED if derived else _cause(db, event)
    values = (event.at, number, event.action, event.code, event.detail, cause)
    added = db.execute(ADD_EVENT, values)
    return int(added.lastrowid or 0) if added.rowcount else 0


def save_last_lines(store: HistoryStore, engine: Engine, event: EngineEvent, number: int) -> None:
    """Keep the last log lines of a container that has just ended, if its log can be read."""
    try:
        container = engine.inspect(event.id)
        if is_hidden(container):
            return
        lines = reader.read_log(engine, container, tail=LAST_LINES, since="", grep="").lines
    except AnvylError:
        return  # it was removed already, or its log driver keeps nothing
    shown = [line[:MAX_LINE] for line in redact_lines(lines)]
    if shown:
        store.write(lambda db: _keep_lines(db, event, number, zlib.compress("\n".join(shown).encode(), 9)))


def _keep_lines(db: sqlite3.Connection, event: EngineEvent, number: int, packed: bytes) -> None:
    (subject,) = db.execute("SELECT subject FROM event WHERE n = ?", (number,)).fetchone()
    earlier = db.execute(
        "SELECT event FROM last_lines WHERE subject = ? AND at > ? ORDER BY at", (subject, event.at - LINES_EVERY)
    ).fetchall()
    # The first of a series is kept too: it may differ from those that follow.
    db.executemany("DELETE FROM last_lines WHERE event = ?", earlier[1:])
    db.execute("INSERT OR REPLACE INTO last_lines VALUES (?, ?, ?, ?)", (number, subject, event.at, packed))


def begin_change(db: sqlite3.Connection, at: int, operation: str, who: str, tool: str, objects: Sequence[str]) -> None:
    """Record that a change of this host begins. `objects`: `kind name` and `kind id` of what it names or makes."""
    db.execute(
        "INSERT OR IGNORE INTO change (operation, began, who, tool, objects) VALUES (?, ?, ?, ?, ?)",
        (operation, at, text.one_line(who), tool, "\n".join(map(text.one_line, objects))),
    )


def end_change(db: sqlite3.Connection, at: int, operation: str, outcome: str) -> None:
    """Record how a change ended: `ok` or an error code."""
    db.execute("UPDATE change SET ended = ?, outcome = ? WHERE operation = ?", (at, outcome, operation))


def reconcile(db: sqlite3.Connection, now: int, found: Iterable[Mapping[str, Any]]) -> None:
    """Record what happened to containers in a gap, as far as they show it. `found`: all containers, inspected."""
    present = set()
    for one in found:
        present.add(one["Id"])
        if is_hidden(one):
            continue
        state, labels = one["State"], one["Config"].get("Labels") or {}
        about = {
            "kind": "container",
            "id": one["Id"],
            "name": text.one_line(one["Name"]).lstrip("/"),
            "image": text.one_line(str(one["Config"].get("Image") or "")),
            "project": text.one_line(str(labels.get(COMPOSE_PROJECT) or "")),
        }
        number = subject_number(
            db, "container", about["id"], about["name"], image=about["image"], project=about["project"]
        )
        if started := _moment(state.get("StartedAt")):
            _add_missing(db, number, EngineEvent(at=started, action="start", **about))
        ended = _moment(state.get("FinishedAt"))
        if ended and (not state.get("Running") or ended < (started or 0)):
            oom = "out of memory" if state.get("OOMKilled") else ""
            code = int(state.get("ExitCode") or 0) if not state.get("Running") else None
            _add_missing(db, number, EngineEvent(at=ended, action="die", code=code, detail=oom, **about))
    gone = db.execute(
        "SELECT n, id, name FROM subject WHERE kind = 'container'"
        " AND EXISTS (SELECT 1 FROM event WHERE event.subject = subject.n)"
        " AND NOT EXISTS (SELECT 1 FROM event WHERE event.subject = subject.n AND action = 'destroy')"
    ).fetchall()
    for number, identity, _ in gone:
        if identity not in present:
            db.execute(ADD_EVENT, (now, number, "destroy", None, "seen missing", None))


def ends_without_lines(db: sqlite3.Connection, containers: Sequence[str]) -> list[tuple[int, EngineEvent]]:
    """The last end of each of these stopped containers, if its last lines were not kept."""
    found = []
    for identity in containers:
        row = db.execute(
            "SELECT event.n, at, name FROM event JOIN subject ON subject.n = event.subject"
            " WHERE kind = 'container' AND id = ? AND action = 'die' ORDER BY at DESC LIMIT 1",
            (identity,),
        ).fetchone()
        if row and not db.execute("SELECT 1 FROM last_lines WHERE event = ?", (row[0],)).fetchone():
            found.append((row[0], EngineEvent(at=row[1], kind="container", id=identity, name=row[2], action="die")))
    return found


def continue_span(db: sqlite3.Connection, span: int | None, now: int) -> int:
    """Record that recording runs; returns the number of the span. None begins a new one."""
    if span is not None and db.execute("UPDATE span SET ended = ? WHERE n = ?", (now, span)).rowcount:
        return span
    return db.execute("INSERT INTO span (began, ended) VALUES (?, ?)", (now, now)).lastrowid or 0


def add_jump(db: sqlite3.Connection, now: int, seconds: int) -> None:
    """Record that the clock was set, to `now`, by so many seconds forward."""
    db.execute("INSERT INTO jump (at, seconds) VALUES (?, ?)", (now, seconds))


def last_event_time(db: sqlite3.Connection) -> int:
    """When the newest event of the engine happened; 0 if there is none.

    One that is derived from a container does not count: the engine may not have sent yet what came before it.
    """
    return int(db.execute("SELECT max(at) FROM event WHERE change IS NOT ?", (DERIVED,)).fetchone()[0] or 0)


def _cause(db: sqlite3.Connection, event: EngineEvent) -> int | None:
    """The change through Anvyl that an event belongs to: one that ran then and names its object or its stack."""
    running = db.execute(
        "SELECT n, tool, objects FROM change WHERE began BETWEEN ? AND ? AND (ended IS NULL OR ended >= ?)"
        " ORDER BY began DESC",
        (event.at - LONGEST_CHANGE, event.at + CHANGE_GRACE, event.at - CHANGE_GRACE),
    ).fetchall()
    for number, tool, objects in running:
        words = objects.split("\n")
        named = {f"{event.kind} {lasting_name(event.name)}", f"{event.kind} {event.id}"}
        if event.project:
            named.add(f"stack {event.project}")
        if tool == "prune_unused" and event.action not in PRUNED_ACTIONS:
            continue
        # The objects of an undo or a prune are not known when it begins.
        if not objects or not named.isdisjoint(words):
            return int(number)
    return None


def _last_health(db: sqlite3.Connection, subject: int) -> str:
    row = db.execute(
        "SELECT detail FROM event WHERE subject = ? AND action = ? ORDER BY at DESC LIMIT 1", (subject, HEALTH)
    ).fetchone()
    return str(row[0]) if row else ""


def _add_missing(db: sqlite3.Connection, number: int, event: EngineEvent) -> None:
    known = db.execute(
        "SELECT 1 FROM event WHERE subject = ? AND action = ? AND at BETWEEN ? AND ?",
        (number, event.action, event.at - SAME_MOMENT, event.at + SAME_MOMENT),
    ).fetchone()
    if not known:
        add_event(db, event, derived=True)


def _moment(stamp: Any) -> int | None:
    nanoseconds = to_nanoseconds(stamp) if isinstance(stamp, str) else None
    return nanoseconds // 1000 if nanoseconds and nanoseconds > 0 else None
