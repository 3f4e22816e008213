"""Private folders and files of an installation: where they are, creating, writing atomically, checking permissions."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from anvyl_mcp.core.errors import ConfigInvalid

SYSTEM_HOME = Path("/var/lib/anvyl")
"""Home of a server that runs as a system service."""
SERVICE_RECORD = "service.json"
"""In the home of a server that runs as a service: how it was installed."""
OWN_FOLDERS = frozenset(
    {"approvals", "audit", "backups", "cache", "chats", "history", "operations", "run", "stacks", "trust"}
)
"""Names of the folders that an installation creates."""
PRIVATE_MODE = 0o600
OTHERS_MAY_WRITE = 0o022
OTHERS_MAY_ANYTHING = 0o077


def config_and_state_dirs(env: Mapping[str, str]) -> tuple[Path, Path]:
    """Return the configuration and the state directory; `ANVYL_HOME` sets both.

    Commands of root without `ANVYL_HOME` are about the system service, if there is one.
    """
    if home := env.get("ANVYL_HOME"):
        folder = Path(home).expanduser().absolute()
        return folder, folder
    if os.geteuid() == 0 and (SYSTEM_HOME / SERVICE_RECORD).exists():
        return SYSTEM_HOME, SYSTEM_HOME
    return user_dirs()


def user_dirs() -> tuple[Path, Path]:
    """Return the configuration and the state directory of a user."""
    # Takes 20 ms to import, which shell completion avoids when `ANVYL_HOME` is set.
    from platformdirs import user_config_path, user_state_path

    return user_config_path("anvyl"), user_state_path("anvyl")


def make_private_folder(folder: Path) -> None:
    """Create a folder with mode 0700, and its missing parents.

    Raises:
        OSError: it cannot be created.
    """
    missing = []
    while not folder.is_dir() and folder not in missing:
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        match_folder_owner(one.parent, one)


def write_atomically(path: Path, data: str | bytes, *, durable: bool = True, mode: int = PRIVATE_MODE) -> None:
    """Replace a file atomically: readers see the old or the new content, and a failure keeps the old.

    `durable` calls fsync, so that the file survives a power failure; caches do without. A missing folder is created.

    Raises:
        OSError: the file cannot be written.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    make_private_folder(path.parent)
    temporary = path.with_name(f".{path.name}-{os.urandom(6).hex()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
    try:
        with os.fdopen(handle, "wb") as file:
            match_folder_owner(path.parent, handle)
            if mode != PRIVATE_MODE:
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


def restrict_permissions(*homes: Path) -> None:
    """Remove the permissions of other users that an older version left on homes, their folders and their lock files.

    A home that is shared with other programs keeps its mode; so does everything that belongs to another user.
    """
    for home in dict.fromkeys(homes):
        _restrict_home(home)


def _restrict_home(home: Path) -> None:
    with suppress(OSError):
        entries = list(os.scandir(home))
        folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        for entry in entries:
            if entry in folders and entry.name in OWN_FOLDERS:
                _restrict(Path(entry.path), 0o700)
            elif entry.name.endswith(".lock") and entry.is_file(follow_symlinks=False):
                _restrict(Path(entry.path), 0o600)
        if {entry.name for entry in folders} <= OWN_FOLDERS and not _is_shared(home):
            _restrict(home, 0o700)


def match_folder_owner(folder: Path, file: Path | int) -> None:
    """Under sudo, give a new file to the owner of its folder, who could not open it otherwise."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(file, owner.st_uid, owner.st_gid)


def check_not_writable_by_others(
    file: Path, found: os.stat_result, consequence: str = "", *, mode: str = "go-w"
) -> None:
    """Check that no other user can change a configuration file; `found` is its `stat`.

    Raises:
        ConfigInvalid: another user can; the message ends with `consequence`.
    """
    if found.st_mode & OTHERS_MAY_WRITE:
        raise ConfigInvalid(
            f"{file} can be changed by other users{consequence}", hint=f"check its content, then: chmod {mode} {file}"
        )
    folder = file.parent.stat()
    if folder.st_mode & 0o002 and not folder.st_mode & stat.S_ISVTX:
        raise ConfigInvalid(
            f"{file.parent} can be changed by every user, and so can {file.name} in it{consequence}",
            hint=f"check its content, then: chmod o-w {file.parent}",
        )
    if found.st_uid not in (os.geteuid(), 0, folder.st_uid):
        raise ConfigInvalid(
            f"{file} belongs to another user{consequence}", hint=f"check its content, then: chown {os.geteuid()} {file}"
        )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _restrict(path: Path, mode: int) -> None:
    found = path.stat()
    if stat.S_IMODE(found.st_mode) & OTHERS_MAY_ANYTHING and found.st_uid in (os.geteuid(), 0):
        with suppress(OSError):
            path.chmod(mode)


def _is_shared(home: Path) -> bool:
    """Whether other programs use a folder: a sticky one like /tmp, a home directory, or one of its parents."""
    person = Path.home()
    return bool(home.stat().st_mode & stat.S_ISVTX) or home == person or home in person.parents
