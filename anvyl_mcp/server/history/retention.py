"""How long history is kept: minutes for a day, hours for a month, events for three, within a total size."""

from __future__ import annotations

import sqlite3

from anvyl_mcp.server.history.store import MICROSECOND

HOUR, DAY = 3600, 86400
KEEP_MINUTES = 25 * HOUR
"""A day, and the hour that is being summed up."""
KEEP_HOURS = 30 * DAY
KEEP_EVENTS = 90 * DAY
MAX_BYTES = 180 * 1024 * 1024
"""Of the database. With its write-ahead log it stays under 200 MB."""
MAX_LAST_LINES = 40 * 1024 * 1024
"""Compressed bytes of all last log lines together."""
MAX_EVENTS = 500_000
STEP = 10

ROLL_UP = """INSERT OR REPLACE INTO hour (at, subject, samples, cpu, cpu_peak, memory, memory_peak)
    SELECT at - at % 3600 AS whole, subject, count(*), CAST(avg(cpu) AS INTEGER), max(cpu),
    CAST(avg(memory) AS INTEGER), max(memory) FROM minute
    WHERE at >= ? AND at < ? GROUP BY whole, subject"""
OLDEST_LINES = """DELETE FROM last_lines WHERE event IN (SELECT event FROM (
    SELECT event, sum(length(lines)) OVER (ORDER BY at DESC) AS sum FROM last_lines) WHERE sum > ?)"""


def roll_up(db: sqlite3.Connection, now: float) -> None:
    """Sum up the minutes of every hour that has ended and of the present one, so that hours are always complete."""
    last = db.execute("SELECT max(at) FROM hour WHERE at <= ?", (now,)).fetchone()[0] or 0
    # The last hour may have been summed up before it ended.
    db.execute(ROLL_UP, (last, int(now) + 1))


def trim(db: sqlite3.Connection, now: float) -> None:
    """Delete what is older than it is kept, and the oldest of what is too much."""
    db.execute("DELETE FROM minute WHERE at < ?", (now - KEEP_MINUTES,))
    db.execute("DELETE FROM hour WHERE at < ?", (now - KEEP_HOURS,))
    delete_events(db, int((now - KEEP_EVENTS) * MICROSECOND))
    newest = db.execute("SELECT max(n) FROM event").fetchone()[0] or 0
    if row := db.execute("SELECT at FROM event WHERE n = ?", (newest - MAX_EVENTS,)).fetchone():
        delete_events(db, row[0])
    db.execute(OLDEST_LINES, (MAX_LAST_LINES,))
    db.execute("DELETE FROM jump WHERE at < ?", ((now - KEEP_EVENTS) * MICROSECOND,))
    db.execute("DELETE FROM span WHERE ended < ?", ((now - KEEP_EVENTS) * MICROSECOND,))
    db.execute(
        "DELETE FROM subject WHERE n > 0 AND NOT EXISTS (SELECT 1 FROM event WHERE event.subject = subject.n)"
        " AND n NOT IN (SELECT subject FROM hour) AND n NOT IN (SELECT subject FROM minute)"
    )


def limit_size(db: sqlite3.Connection, most: int = MAX_BYTES) -> None:
    """Delete the oldest tenth of everything until the rest fits, and give free pages back."""
    for _ in range(STEP * 2):
        if used_bytes(db) <= most:
            break
        for table in ("minute", "hour"):
            _delete_oldest(db, table, "at")
        if row := db.execute(
            "SELECT at FROM event ORDER BY at LIMIT 1 OFFSET (SELECT count(*) / ? FROM event)", (STEP,)
        ).fetchone():
            delete_events(db, row[0] + 1)


def delete_events(db: sqlite3.Connection, before: int) -> None:
    """Delete events, their last lines and changes before a time in microseconds."""
    db.execute("DELETE FROM event WHERE at < ?", (before,))
    db.execute("DELETE FROM last_lines WHERE at < ?", (before,))
    db.execute("DELETE FROM change WHERE began < ?", (before,))


def used_bytes(db: sqlite3.Connection) -> int:
    """Bytes of the pages in use."""
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _delete_oldest(db: sqlite3.Connection, table: str, column: str) -> None:
    first, last = db.execute(f"SELECT min({column}), max({column}) FROM {table}").fetchone()
    if first is not None:
        db.execute(f"DELETE FROM {table} WHERE {column} <= ?", (first + (last - first) // STEP,))
