"""Locks between processes. Every wait for one ends, with a sentence that names who holds it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Busy
from anvyl_mcp.core.files import make_private_folder, match_folder_owner

DEFAULT_TIMEOUT = 2.0
"""Seconds to wait for another process: a hung one must not hang every command."""


@contextmanager
def exclusive_lock(path: Path, *, seconds: float | None = None) -> Iterator[None]:
    """Alone among all processes, by a lock file that only its owner may open.

    Raises:
        Busy: another process keeps the lock.
        OSError: the file cannot be made.
    """
    descriptor = open_lock_file(path)
    try:
        try:
            acquire(descriptor, fcntl.LOCK_EX, seconds=seconds)
        except TimeoutError as error:
            raise Busy(f"{path} is locked: {error.strerror}", hint="wait for that process or end it") from error
        yield
    finally:
        os.close(descriptor)


def open_lock_file(path: Path) -> int:
    """A descriptor of a lock file; an older one that others may open is closed to them.

    Raises:
        OSError: it cannot be made.
    """
    make_private_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with suppress(OSError):
        match_folder_owner(path.parent, descriptor)
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o600:
            os.fchmod(descriptor, 0o600)
    return descriptor


def acquire(descriptor: int, how: int, *, seconds: float | None = None) -> None:
    """Take a lock, waiting for a limited time: `WAIT`, or so many seconds.

    Raises:
        TimeoutError: another process keeps it.
    """
    deadline = time.monotonic() + (DEFAULT_TIMEOUT if seconds is None else seconds)
    while True:
        try:
            return fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"{describe_holder(descriptor)} holds it") from error
            time.sleep(0.001)  # flock cannot wait for a limited time


def describe_holder(descriptor: int) -> str:
    """Name the process that holds the lock of a file, as far as the system knows."""
    inode = os.fstat(descriptor).st_ino
    with suppress(OSError, ValueError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            # Those that wait have an arrow in the second place.
            if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == inode:
                return _process(int(fields[4]))
    return "another process"


def _process(number: int) -> str:
    if number == os.getpid():
        return "another part of this process"
    with suppress(OSError):
        folder = Path(f"/proc/{number}")
        name = text.clean((folder / "comm").read_text(encoding="utf-8", errors="replace")).strip()
        return f"process {number} (`{name}`, of {_user(folder.stat().st_uid)})"
    return f"process {number}"


def _user(number: int) -> str:
    import pwd

    with suppress(KeyError):
        return f"`{pwd.getpwuid(number).pw_name}`"
    return f"user {number}"
