"""The format of a home, and the copy that is made of a home of an older version before it is changed."""

from __future__ import annotations

import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from anvyl_mcp.core.errors import AnvylError, ConfigInvalid
from anvyl_mcp.core.file_locks import exclusive_lock
from anvyl_mcp.core.files import (
    OWN_FOLDERS,
    PRIVATE_MODE,
    SERVICE_RECORD,
    make_private_folder,
    match_folder_owner,
    write_atomically,
)

log = logging.getLogger(__name__)

FORMAT = 2
"""Raise it with every change of a file in the home that an older version cannot read."""
CHANGED = "operations/operations.log"
"""A file that format 1 has and format 2 replaces."""
FORMAT_FILE = "format"
BACKUPS = "backups"
KEPT_BACKUPS = 3
LEFT_OUT = frozenset({"run", "cache", BACKUPS})
SUFFIXES = frozenset({".toml", ".json"})
LARGEST = 64 * 1024 * 1024
"""Larger files are left out, so that a copy does not fill the disk."""


def prepare_home(config_dir: Path, state_dir: Path) -> Path | None:
    """Copy a home of an older format before it is used, and mark it with ours. Returns the copy.

    Raises:
        ConfigInvalid: the home has the format of a newer version.
        AnvylError: the copy cannot be written.
    """
    if read_format(state_dir) == FORMAT:
        return None
    homes = {"config": config_dir, "state": state_dir}
    if config_dir == state_dir:
        del homes["config"]
    files = [(name, home, path) for name, home in homes.items() for path in _files(home)]
    if not files:
        # A folder that cannot be written has nothing that this version would change.
        with suppress(OSError):
            _mark(state_dir)
        return None
    # Some commands write a file without a mark into a new home, which is then copied, too, but not worth a warning.
    level = logging.WARNING if (state_dir / CHANGED).exists() else logging.INFO
    try:
        with exclusive_lock(state_dir / "format.lock"):
            found = read_format(state_dir)
            if found > FORMAT:
                raise ConfigInvalid(
                    f"{state_dir} was used by a newer version of Anvyl (format {found}; this one knows {FORMAT})",
                    hint=f"upgrade: anvyl-mcp upgrade. Copies of older homes are in {state_dir / BACKUPS}",
                )
            if found == FORMAT:
                return None
            copy = _copy(files, state_dir)
            _mark(state_dir)
    except OSError as error:
        raise AnvylError(
            f"{state_dir} cannot be copied before the upgrade: {error.strerror or error}",
            hint="check disk space and permissions",
        ) from error
    log.log(level, "this home was used by an older version of Anvyl; a copy of it is in %s", copy)
    return copy


def restore_home(config_dir: Path, state_dir: Path) -> None:
    """Unpack the newest copy of a home of our format, if a newer version has changed the home since.

    Raises:
        AnvylError: it cannot be unpacked.
    """
    copies = sorted((state_dir / BACKUPS).glob(f"format-{FORMAT}-*.tar.gz"), key=lambda path: path.stat().st_mtime)
    if read_format(state_dir) <= FORMAT or not copies:
        return
    homes = {"config": config_dir, "state": state_dir}
    try:
        with exclusive_lock(state_dir / "format.lock"), tarfile.open(copies[-1]) as archive:
            for member in archive:
                name, _, path = member.name.partition("/")
                archive.extract(member.replace(name=path), homes[name], filter="data")
            _mark(state_dir)
    except (OSError, tarfile.TarError) as error:
        raise AnvylError(
            f"{state_dir} cannot be put back to the format of this version: {error}",
            hint=f"unpack {copies[-1]} over it",
        ) from error
    log.warning("the home was put back to the copy %s, from before a newer version changed it", copies[-1])


def _mark(state_dir: Path) -> None:
    write_atomically(state_dir / FORMAT_FILE, f"{FORMAT}\n")


def read_format(state_dir: Path) -> int:
    """Return the format of a home; 1 for versions that did not write it."""
    try:
        return int((state_dir / FORMAT_FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 1


def _copy(files: Sequence[tuple[str, Path, Path]], state_dir: Path) -> Path:
    folder = state_dir / BACKUPS
    make_private_folder(folder)
    target = folder / f"format-{read_format(state_dir)}-{datetime.now(UTC):%Y%m%dT%H%M%S}.tar.gz"
    temporary = target.with_name(f".{target.name}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_MODE)
    try:
        with os.fdopen(handle, "wb") as file:
            match_folder_owner(folder, handle)
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                for name, home, path in files:
                    if path.stat().st_size > LARGEST:
                        log.warning("%s is larger than 64 MiB and is not in the copy", path)
                    else:
                        archive.add(path, f"{name}/{path.relative_to(home)}", recursive=False)
            file.flush()
            os.fsync(handle)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    for old in sorted(folder.glob("format-*.tar.gz"), key=lambda path: path.stat().st_mtime)[:-KEPT_BACKUPS]:
        old.unlink()
    return target


def _files(home: Path) -> Iterator[Path]:
    """Our files in a home, which may be shared with other programs; not those that can be made again."""
    for entry in sorted(home.iterdir()) if home.is_dir() else ():
        if entry.is_symlink():
            continue
        if entry.name == SERVICE_RECORD or entry.name.startswith("."):
            continue
        if entry.is_file() and entry.suffix in SUFFIXES:
            yield entry
        elif entry.is_dir() and entry.name in OWN_FOLDERS - LEFT_OUT:
            yield from (path for path in sorted(entry.rglob("*")) if path.is_file() and not path.is_symlink())
