"""Journal of operations: the changes requested from this host, by operation id, and how each of them ended.

A change is in the database, on the disk, before it acts, so that no operation id is ever executed twice. The audit log
lists every change too: operations that a damaged or removed database lacks are restored from there.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anvyl_mcp.core import file_locks
from anvyl_mcp.core.errors import AnvylError, Denied
from anvyl_mcp.server import database_file

log = logging.getLogger(__name__)

FILE = "operations.db"
OLD_FILE = "operations.log"
"""The file of versions before SQLite; imported once."""
LOCK = "lock"
MAX_OPERATIONS = 10_000
"""Operations that are kept."""
KEEP_SECONDS = 24 * 3600.0
"""Seconds for which an operation is kept."""
MIN_OPERATIONS = 1000
"""The newest operations are kept regardless of their age, because the clock may jump."""
TRIM_INTERVAL = 100
"""Operations that begin between two removals of old ones."""
MAX_RESULTS = 8 * 1024 * 1024
"""Characters of all results together; the oldest give way."""
MAX_ENDING = 16 * 1024
"""Characters of one stored end; a larger result is not kept."""
MIN_FREE_BYTES = 64 * 1024
"""Bytes that must be free before a change begins, so that its end can be written too."""
CHECKED_OPERATIONS = 100
"""Operations of the audit log that must be in the journal: without its `-wal` file a database is sound, but older."""

PRAGMAS = """PRAGMA page_size = 1024; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
    PRAGMA wal_autocheckpoint = 256"""
"""Small pages, so that dropping a result frees space, and a small `-wal` file, so that a small disk has room for it."""
TABLE = """CREATE TABLE operations (number INTEGER PRIMARY KEY, operation TEXT NOT NULL UNIQUE, call TEXT NOT NULL,
    tool TEXT NOT NULL, begun REAL NOT NULL, ending TEXT)"""
ADD = "INSERT OR IGNORE INTO operations (operation, call, tool, begun, ending) VALUES (?, ?, ?, ?, ?)"
DROP_RESULTS = """UPDATE operations SET ending = :dropped WHERE length(ending) > length(:dropped) AND number <= (
    SELECT max(number) FROM (SELECT number, sum(length(ending)) OVER (ORDER BY number DESC) AS sum FROM operations)
    WHERE sum > :results)"""

OperationEnd = Mapping[str, Any]
"""How an operation ended: `{"ok": result}`, `{"error": {"code", "message", "hint"}}`, or `{"dropped": reason}`."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """An operation that began. `digest` identifies the request; empty if only the operation id is known."""

    digest: str
    end: OperationEnd | None


class Journal:
    """The operations of this host, in a folder of their own. Several processes may use it; failures are `Denied`."""

    def __init__(self, folder: Path, *, recall: Callable[[], Iterable[str]] = tuple) -> None:
        """`recall` returns the ids of changes that began, the oldest first, from another source."""
        self.folder = folder
        self.trouble = ""
        """Why the last change could not be written; empty while all is well."""
        self._path = folder / FILE
        self._recall = recall
        self._mutex = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        self._unwritten: dict[str, str | None] = {}
        """Ends that could not be written yet; None for an operation that did not act."""

    def open(self) -> None:
        """Open the database when a server starts; a damaged one is set aside and rebuilt. Never raises."""
        with suppress(Denied), self._database():
            pass

    def find(self, operation: str) -> JournalEntry | None:
        """Look up an operation; None if it did not begin on this host.

        Raises:
            Denied: the journal cannot be read, so the operation must not act.
        """
        with self._database() as db:
            return self._lookup(db, operation)

    def start(self, operation: str, digest: str, *, tool: str) -> JournalEntry | None:
        """Record that an operation is about to act. Return None once that is on disk, or its entry if it began before.

        Raises:
            Denied: the record cannot be written, so the operation must not act.
        """
        with self._database() as db:
            if entry := self._lookup(db, operation):
                return entry
            if not database_file.has_room(self.folder, MIN_FREE_BYTES):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            number = db.execute(ADD, (operation, digest, tool, time.time(), None)).lastrowid or 0
            if number % TRIM_INTERVAL == 0:
                _trim(db, number)
        return None

    def end(self, operation: str, end: OperationEnd) -> None:
        """Record how an operation ended. Never raises: an end that cannot be written is kept in memory and retried."""
        ending = json.dumps(end)
        if len(ending) > MAX_ENDING:
            ending = json.dumps({"dropped": "its result was too large to keep" if "ok" in end else "it failed"})
        self._unwritten[operation] = ending
        self.open()

    def void(self, operation: str) -> None:
        """Record that an operation did not act and may begin again. Never raises."""
        self._unwritten[operation] = None
        self.open()

    def close(self) -> None:
        """Close the database; the next call opens it again."""
        with self._mutex:
            self._disconnect()

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Open the database, locked against other threads and processes, after writing pending ends."""
        if not self._mutex.acquire(timeout=file_locks.DEFAULT_TIMEOUT):
            raise self._denied(TimeoutError(errno.ETIMEDOUT, "the disk does not answer"))
        try:
            # SQLite's own locks do not name the process that holds them, and end when a file is set aside.
            with file_locks.exclusive_lock(self.folder / LOCK):
                db = self._connected()
                self._write_pending(db)
                yield db
        except (OSError, sqlite3.Error, AnvylError) as error:
            if isinstance(error, sqlite3.Error):
                self._disconnect()  # the next call checks the file, and rebuilds it if it is damaged
            raise self._denied(error) from error
        finally:
            self._mutex.release()
        if not self._unwritten:
            self.trouble = ""

    def _connected(self) -> sqlite3.Connection:
        if self._db is not None and self._path.exists() and self._path.stat().st_ino == self._inode:
            return self._db
        self._disconnect()
        recalled = list(self._recall())
        try:
            self._db = self._connect(recalled)
        except sqlite3.DatabaseError as error:
            if not database_file.is_damage(error):
                raise
            aside = database_file.set_aside(self._path)
            log.warning("the journal %s is damaged: %s. It was moved to %s and rebuilt", self._path, error, aside)
            self._db = self._connect(recalled)
        self._inode = self._path.stat().st_ino
        return self._db

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = None

    def _connect(self, recalled: Sequence[str]) -> sqlite3.Connection:
        """Open or create the database.

        Raises:
            OSError, sqlite3.Error: it is damaged or cannot be written.
        """
        db = database_file.connect(self._path, PRAGMAS)
        with ExitStack() as unless_completed:
            unless_completed.callback(db.close)
            self._complete(db, recalled)
            unless_completed.pop_all()
        return db

    def _complete(self, db: sqlite3.Connection, recalled: Sequence[str]) -> None:
        """Create the table if it is missing, and add the operations found only in other sources."""
        old = self.folder / OLD_FILE
        db.execute("BEGIN IMMEDIATE")
        new = not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'operations'").fetchone()
        if new:
            db.execute(TABLE)
        if old.exists():
            db.executemany(ADD, _old_rows(old))
        present = {operation for (operation,) in db.execute("SELECT operation FROM operations")}
        if new or not present.issuperset(recalled[-CHECKED_OPERATIONS:]):
            missing = [operation for operation in recalled[-MAX_OPERATIONS:] if operation not in present]
            db.executemany(ADD, [(operation, "", "", time.time(), None) for operation in missing])
            if missing:
                log.warning(
                    "restored %d operations from the audit log that were missing in %s", len(missing), self._path
                )
        db.execute("COMMIT")
        old.unlink(missing_ok=True)

    def _lookup(self, db: sqlite3.Connection, operation: str) -> JournalEntry | None:
        row = db.execute("SELECT call, ending FROM operations WHERE operation = ?", (operation,)).fetchone()
        if row is None or self._unwritten.get(operation, "") is None:
            return None
        ending = self._unwritten.get(operation, row[1])
        return JournalEntry(row[0], json.loads(ending) if ending else None)

    def _write_pending(self, db: sqlite3.Connection) -> None:
        try:
            for operation, ending in list(self._unwritten.items()):
                if ending is None:
                    db.execute("DELETE FROM operations WHERE operation = ?", (operation,))
                else:
                    db.execute("UPDATE operations SET ending = ? WHERE operation = ?", (ending, operation))
                del self._unwritten[operation]
        except sqlite3.Error as error:
            self._denied(error)

    def _denied(self, error: OSError | sqlite3.Error | AnvylError) -> Denied:
        """Turn an error into a refusal, and log it once for as long as it stays the same."""
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        # SQLite reports a full disk with several different errors.
        full = full or (isinstance(error, sqlite3.Error) and not database_file.has_room(self.folder, MIN_FREE_BYTES))
        reason = os.strerror(errno.ENOSPC) if full else getattr(error, "strerror", None) or str(error)
        trouble = f"the journal of operations cannot be written: {reason}"
        if trouble != self.trouble:
            log.warning("%s (%s)", trouble, self.folder)
        self.trouble = trouble
        hint = f"check the owner and permissions of {self.folder}"
        return Denied(
            f"changes are refused: {trouble}", hint=f"free space on the disk of {self.folder}" if full else hint
        )


def _trim(db: sqlite3.Connection, newest: int) -> None:
    """Remove operations over the limit of number or age, and results over the total size."""
    dropped = json.dumps({"dropped": "its result is no longer kept"})
    limits = newest - MAX_OPERATIONS, newest - MIN_OPERATIONS, time.time() - KEEP_SECONDS
    # The new operation is recorded already, so a failure here must not stop it.
    with suppress(sqlite3.Error):
        db.execute("DELETE FROM operations WHERE number <= ? OR number <= ? AND begun < ?", limits)
        db.execute(DROP_RESULTS, {"dropped": dropped, "results": MAX_RESULTS})


def _old_rows(file: Path) -> Iterator[tuple[str, str, str, float, str | None]]:
    """Operations in a file of older versions: 64 bytes, then lines of a checksum and JSON."""
    rows: dict[str, dict[str, Any]] = {}
    for raw in file.read_bytes()[64:].splitlines():
        checksum, _, body = raw.partition(b" ")
        if checksum == b"%08x" % zlib.crc32(body):
            line = json.loads(body)
            rows[line["op"]] = {} if "void" in line else rows.get(line["op"], {}) | line
    for row in rows.values():
        if "call" in row:
            yield row["op"], row["call"], row["tool"], row["at"], json.dumps(row["end"]) if "end" in row else None
