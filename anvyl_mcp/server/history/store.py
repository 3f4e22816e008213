"""The history database of a host, `history/history.db`. A full disk or a damaged file costs history, never a call."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.core.files import make_private_folder
from anvyl_mcp.server import database_file
from anvyl_mcp.server.tool import Injected

log = logging.getLogger(__name__)

FILE = "history.db"
MIN_FREE_BYTES = 32 * 1024 * 1024
"""History pauses while less is free on its disk, or a twentieth of a small disk: others need the rest."""
MICROSECOND = 1_000_000
"""Times in the database are in microseconds since 1970; those of samples in seconds."""
MACHINE = 0
"""The subject number of the machine itself."""

PRAGMAS = """PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
    PRAGMA wal_autocheckpoint = 256; PRAGMA journal_size_limit = 2097152"""
SCHEMA = """
CREATE TABLE IF NOT EXISTS subject (n INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL,
    image TEXT NOT NULL DEFAULT '', project TEXT NOT NULL DEFAULT '', total INTEGER, UNIQUE (kind, id));
CREATE INDEX IF NOT EXISTS subject_name ON subject (name);
INSERT OR IGNORE INTO subject (n, kind, id, name) VALUES (0, 'machine', '', '');
CREATE TABLE IF NOT EXISTS event (n INTEGER PRIMARY KEY, at INTEGER NOT NULL, subject INTEGER NOT NULL,
    action TEXT NOT NULL, code INTEGER, detail TEXT NOT NULL DEFAULT '', change INTEGER,
    UNIQUE (at, subject, action));
CREATE INDEX IF NOT EXISTS event_subject ON event (subject, at);
CREATE TABLE IF NOT EXISTS last_lines (event INTEGER PRIMARY KEY, subject INTEGER NOT NULL, at INTEGER NOT NULL,
    lines BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS last_lines_subject ON last_lines (subject, at);
CREATE TABLE IF NOT EXISTS change (n INTEGER PRIMARY KEY, operation TEXT NOT NULL UNIQUE, began INTEGER NOT NULL,
    ended INTEGER, who TEXT NOT NULL, tool TEXT NOT NULL, objects TEXT NOT NULL, outcome TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS change_began ON change (began);
CREATE TABLE IF NOT EXISTS minute (at INTEGER, subject INTEGER, cpu INTEGER, memory INTEGER,
    PRIMARY KEY (at, subject)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hour (at INTEGER, subject INTEGER, samples INTEGER, cpu INTEGER, cpu_peak INTEGER,
    memory INTEGER, memory_peak INTEGER, PRIMARY KEY (at, subject)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS span (n INTEGER PRIMARY KEY, began INTEGER NOT NULL, ended INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS jump (n INTEGER PRIMARY KEY, at INTEGER NOT NULL, seconds INTEGER NOT NULL);
PRAGMA user_version = 1;
"""
"""`minute` and `hour`: cpu in hundredths of a percent of one core, memory (of a disk: used space) in KiB. The rows of a
minute are stored together, so that each minute writes few pages. `span`: when history was recorded. `jump`: when the
clock was set, by the new time.
"""

Answer = TypeVar("Answer")


class HistoryStore(Injected):
    """The database. Thread-safe; it is opened when first used, and again after an error."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE
        self.recording = False
        """Whether this process records."""
        self.trouble = ""
        """Why the last write failed; empty while all is well."""
        self.damaged = ""
        """Name of the damaged file that was set aside by this process."""
        self._mutex = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._closed = False

    def write(self, work: Callable[[sqlite3.Connection], Answer]) -> Answer | None:
        """Run `work` in a transaction. Never raises for a full disk or a damaged file: returns None and logs once."""
        if self._closed:
            return None
        try:
            make_private_folder(self.folder)
            if not database_file.has_room(self.folder, self._reserve()):
                self._report("its disk is almost full")
                return None
            return self._transaction(work)
        except (OSError, sqlite3.Error) as error:
            self._report(getattr(error, "strerror", None) or str(error))
            return None

    def read(self, work: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Run a query.

        Raises:
            AnvylError: the file cannot be read.
        """
        try:
            make_private_folder(self.folder)
            return self._transaction(work)
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise AnvylError(
                f"the history cannot be read: {reason}", hint=f"check {self.folder}, its owner and its disk"
            ) from error

    def size(self) -> int:
        """Bytes of the database on disk."""
        paths = (self.path.with_name(FILE + suffix) for suffix in database_file.SUFFIXES)
        return sum(path.stat().st_size for path in paths if path.exists())

    def close(self) -> None:
        """Close the database; later writes are dropped."""
        with self._mutex:
            self._closed = True
            self._disconnect()

    def _transaction(self, work: Callable[[sqlite3.Connection], Answer]) -> Answer:
        with self._mutex:
            if self._closed:
                raise sqlite3.ProgrammingError("it is closed")
            db = self._connected()
            try:
                with db:  # commits, or rolls back
                    db.execute("BEGIN")
                    answer = work(db)
            except sqlite3.Error:
                self._disconnect()  # the next use checks the file, and replaces it if it is damaged
                raise
        self.trouble = ""
        return answer

    def _connected(self) -> sqlite3.Connection:
        if self._db is None or not self.path.exists():
            self._disconnect()
            try:
                self._db = self._open()
            except sqlite3.Error as error:
                if not database_file.is_damage(error):
                    raise
                self.damaged = database_file.set_aside(self.path)
                log.warning("the history %s is damaged: %s. It was moved to %s", self.path, error, self.damaged)
                self._db = self._open()
        return self._db

    def _open(self) -> sqlite3.Connection:
        db = database_file.connect(self.path, PRAGMAS, check="quick_check")
        try:
            db.executescript(SCHEMA)
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = None

    def _reserve(self) -> int:
        disk = os.statvfs(self.folder)
        return min(MIN_FREE_BYTES, disk.f_blocks * disk.f_frsize // 20)

    def _report(self, reason: str) -> None:
        trouble = f"history is not recorded: {reason}"
        if trouble != self.trouble:
            log.warning("%s (%s)", trouble, self.folder)
        self.trouble = trouble


def subject_number(
    db: sqlite3.Connection, kind: str, identity: str, name: str, *, image: str = "", project: str = ""
) -> int:
    """The number of a container, image, network, volume or disk, which is added or renamed if needed."""
    row = db.execute("SELECT n, name, image FROM subject WHERE kind = ? AND id = ?", (kind, identity)).fetchone()
    if row is None:
        values = (kind, identity, name, image, project)
        return (
            db.execute("INSERT INTO subject (kind, id, name, image, project) VALUES (?, ?, ?, ?, ?)", values).lastrowid
            or 0
        )
    if (name and name != row[1]) or (image and image != row[2]):
        db.execute("UPDATE subject SET name = ?, image = ? WHERE n = ?", (name or row[1], image or row[2], row[0]))
    return int(row[0])


def known_name(db: sqlite3.Connection, kind: str, identity: str) -> str:
    """The name under which an object is recorded; empty if it is not."""
    row = db.execute("SELECT name FROM subject WHERE kind = ? AND id = ?", (kind, identity)).fetchone()
    return str(row[0]) if row else ""
