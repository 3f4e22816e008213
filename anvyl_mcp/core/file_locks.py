"""File locks between processes. Every wait has a timeout, and the error names the process that holds the lock."""

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
"""Seconds to wait for another process, so that one hung process does not block every command."""


@contextmanager
def exclusive_lock(path: Path, *, seconds: float | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file that only its owner may open.

    Raises:
        Busy: another process holds the lock.
        OSError: the file cannot be created.
    """
    descriptor = open_lock_file(path)
    try:
        try:
            acquire(descriptor, fcntl.LOCK_EX, seconds=seconds)
        except TimeoutError as error:
            raise Busy(f"{path} is locked: {error.strerror}", hint="wait for that process, or stop it") from error
        yield
    finally:
        os.close(descriptor)


def open_lock_file(path: Path) -> int:
    """Open a lock file with mode 0600 and return its descriptor.

    Raises:
        OSError: the file cannot be created.
    """
    make_private_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with suppress(OSError):
        match_folder_owner(path.parent, descriptor)
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o600:
            os.fchmod(descriptor, 0o600)
    return descriptor


def acquire(descriptor: int, how: int, *, seconds: float | None = None) -> None:
    """Acquire a lock, waiting at most `seconds` (default: `DEFAULT_TIMEOUT`).

    Raises:
        TimeoutError: another process holds it.
    """
    deadline = time.monotonic() + (DEFAULT_TIMEOUT if seconds is None else seconds)
    while True:
        try:
            return fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"{describe_holder(descriptor)} holds it") from error
            time.sleep(0.001)  # flock has no timeout


def describe_holder(descriptor: int) -> str:
    """Name the process that holds the lock on a file, if the system knows it."""
    inode = os.fstat(descriptor).st_ino
    with suppress(OSError, ValueError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            # The second field of a waiting process is an arrow.
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
