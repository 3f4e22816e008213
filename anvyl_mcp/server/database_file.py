"""Private SQLite files: create, check, and set damaged ones aside."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from anvyl_mcp.core import file_locks
from anvyl_mcp.core.files import match_folder_owner

DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
SUFFIXES = ("", "-wal", "-shm")
"""SQLite's files of one database in WAL mode."""


def connect(
    path: Path, pragmas: str, *, check: Literal["integrity_check", "quick_check"] = "integrity_check"
) -> sqlite3.Connection:
    """Open or create a database that only its owner can read, after checking it. Any thread may use the connection.

    Raises:
        OSError, sqlite3.Error: it is damaged or cannot be written.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    # SQLite would make it readable for others. Never open an existing file here: closing it drops SQLite's locks.
    if not path.exists():
        path.touch(0o600, exist_ok=False)
        match_folder_owner(path.parent, path)
    db = sqlite3.connect(path, timeout=file_locks.DEFAULT_TIMEOUT, isolation_level=None, check_same_thread=False)
    with ExitStack() as unless_opened:
        unless_opened.callback(db.close)
        db.executescript(pragmas)
        (problem,) = db.execute(f"PRAGMA {check}(1)").fetchone()
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)
        unless_opened.pop_all()
    return db


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error means that the file is not a sound database."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return isinstance(error, sqlite3.DatabaseError) and code & 0xFF in DAMAGE


def set_aside(path: Path) -> str:
    """Rename a damaged database, and return its new name.

    Raises:
        OSError: the folder cannot be written.
    """
    aside = f"{path.name}.bad-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    for suffix in SUFFIXES:
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(path.with_name(aside + suffix))
    return aside


def has_room(folder: Path, least: int) -> bool:
    """Whether so many bytes are free on the disk of a folder."""
    disk = os.statvfs(folder)
    # Root may use the reserved blocks. Some file systems report a size of zero.
    free = (disk.f_bavail if os.geteuid() else disk.f_bfree) * disk.f_frsize
    return not disk.f_blocks or free >= least
