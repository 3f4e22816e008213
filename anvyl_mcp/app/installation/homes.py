"""The home of a service: which one it is, and copying keys, tokens and hosts into that of a system service."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.core.files import SYSTEM_HOME, user_dirs
from anvyl_mcp.core.settings import Settings

NOT_COPIED = shutil.ignore_patterns("run", "cache", "backups", "*.lock", "service.json", ".*")
"""What belongs to one process or can be made again."""
STARTED = ("trust", "hosts.toml", "config.toml", "policy.toml")
"""A home with one of these was used before."""


def service_home(*, system: bool, environ: Mapping[str, str]) -> Path | None:
    """Return `ANVYL_HOME` of the service; None for the usual folders of a user."""
    if home := environ.get("ANVYL_HOME"):
        return Path(home).expanduser().absolute()
    return SYSTEM_HOME if system else None


def homes_to_copy(home: Path | None, settings: Settings, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the folders of the person who installs a system service whose own home is still empty."""
    if home is None or was_used(home):
        return ()
    for pair in _pairs(environ):
        if any(was_used(folder) for folder in pair):
            return tuple(dict.fromkeys(folder for folder in pair if folder.is_dir() and folder != home))
    return ()


def homes_of_person(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the usual folders of the person who installs a service, used or not."""
    return tuple(folder for pair in _pairs(environ) for folder in pair)


def was_used(home: Path) -> bool:
    """Whether a home has keys, hosts or settings."""
    return any((home / name).exists() for name in STARTED)


def copy_homes(sources: Sequence[Path], home: Path) -> None:
    """Copy homes into a new one; they stay as they are.

    Raises:
        AnvylError: a file cannot be read or written.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for source in sources:
            shutil.copytree(source, home, ignore=NOT_COPIED, symlinks=True, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise AnvylError(f"{home} cannot be filled: {error}", hint="check disk and permissions") from error


def _pairs(environ: Mapping[str, str]) -> tuple[tuple[Path, ...], ...]:
    return _login_dirs(environ), user_dirs()


def _login_dirs(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the folders of the user who called sudo."""
    with suppress(KeyError):
        person = pwd.getpwnam(environ["SUDO_USER"])
        home = Path(person.pw_dir)
        if person.pw_uid != os.geteuid():
            return home / ".config" / "anvyl", home / ".local" / "state" / "anvyl"
    return ()
