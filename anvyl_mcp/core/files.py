"""Folders and files of an installation: for their owner alone, and not believed when others may write them."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from anvyl_mcp.core.errors import ConfigInvalid

OWN_FOLDERS = frozenset({"approvals", "audit", "cache", "chats", "history", "operations", "run", "stacks", "trust"})
"""What an installation keeps in folders of its own."""
PRIVATE = 0o600
OTHERS_MAY_WRITE = 0o022
OTHERS_MAY_ANYTHING = 0o077


def private_folder(folder: Path) -> None:
    """Make a folder that is missing for its owner alone, and those above it.

    Raises:
        OSError: it cannot be made.
    """
    missing = []
    while not folder.is_dir() and folder not in missing:
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        give_to_owner_of(one.parent, one)


def write_atomically(path: Path, data: str | bytes, *, durable: bool = True, mode: int = PRIVATE) -> None:
    """Replace a file in one step: readers see the old content or the new, and a failure leaves the old.

    `durable` also survives a power failure; caches do without and save two calls of fsync. A missing folder is made.

    Raises:
        OSError: the file cannot be written.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    private_folder(path.parent)
    temporary = path.with_name(f".{path.name}-{os.urandom(6).hex()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    try:
        with os.fdopen(handle, "wb") as file:
            give_to_owner_of(path.parent, handle)
            if mode != PRIVATE:
                os.fchmod(handle, mode)
            file.write(content)
            file.flush()
            if durable:
                os.fsync(handle)
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()
    if durable:
        _sync_folder(path.parent)


def tighten(*homes: Path) -> None:
    """Close homes to others that an older version left open: their folders, their locks, and themselves if ours alone.

    What belongs to another user is left as it is.
    """
    for home in dict.fromkeys(homes):
        _tighten(home)


def _tighten(home: Path) -> None:
    with suppress(OSError):
        entries = list(os.scandir(home))
        folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        for entry in entries:
            if entry in folders and entry.name in OWN_FOLDERS:
                _close(Path(entry.path), 0o700)
            elif entry.name.endswith(".lock") and entry.is_file(follow_symlinks=False):
                _close(Path(entry.path), 0o600)
        if {entry.name for entry in folders} <= OWN_FOLDERS and not _is_shared(home):
            _close(home, 0o700)


def give_to_owner_of(folder: Path, file: Path | int) -> None:
    """What a command run with sudo makes must not be closed to the user whose folder it is in."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(file, owner.st_uid, owner.st_gid)


def require_unshared(file: Path, found: os.stat_result, consequence: str = "", *, mode: str = "go-w") -> None:
    """Return when no other user may change a file that decides something; `found` is its `stat`.

    Raises:
        ConfigInvalid: one may; the message ends with the `consequence`.
    """
    if found.st_mode & OTHERS_MAY_WRITE:
        raise ConfigInvalid(
            f"{file} may be changed by other users{consequence}", hint=f"look at it, then: chmod {mode} {file}"
        )
    folder = file.parent.stat()
    if folder.st_mode & 0o002 and not folder.st_mode & stat.S_ISVTX:
        raise ConfigInvalid(
            f"{file.parent} may be changed by every user, and {file.name} in it with that{consequence}",
            hint=f"look at it, then: chmod o-w {file.parent}",
        )
    if found.st_uid not in (os.geteuid(), 0, folder.st_uid):
        raise ConfigInvalid(
            f"{file} belongs to another user{consequence}", hint=f"look at it, then: chown {os.geteuid()} {file}"
        )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _close(path: Path, mode: int) -> None:
    found = path.stat()
    if stat.S_IMODE(found.st_mode) & OTHERS_MAY_ANYTHING and found.st_uid in (os.geteuid(), 0):
        with suppress(OSError):
            path.chmod(mode)


def _is_shared(home: Path) -> bool:
    """Whether a folder is not for one program: a place for temporary files, a person's home, or what is above it."""
    person = Path.home()
    return bool(home.stat().st_mode & stat.S_ISVTX) or home == person or home in person.parents
