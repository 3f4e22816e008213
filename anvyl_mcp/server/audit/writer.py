"""Appends to a chain of JSON lines, each with the hash of the one before; survives crashes and full disks.

A folder holds `audit.jsonl`, older files named after their first record, and `head` with the end of the chain. `head`
is also the lock between processes, and reveals when the last records were cut off.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anvyl_mcp.core import file_locks
from anvyl_mcp.core.files import make_private_folder, match_folder_owner
from anvyl_mcp.server.audit.reader import (
    HASH_KEY,
    HEAD,
    HEAD_BYTES,
    LOG,
    TAIL,
    ChainHead,
    last_valid_record,
    lines,
    open_readonly,
    parse_record,
    rotated_files,
)

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 16 * 1024**2
MAX_FILES = 8
"""Files to keep, including the current one."""

_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class Chain:
    """The chain in one folder. Several threads and processes may append; failures raise `OSError`."""

    def __init__(self, folder: Path, *, largest: int = MAX_FILE_BYTES, keep: int = MAX_FILES) -> None:
        self.folder = folder
        self._largest = largest
        self._keep = max(keep, 2)
        self._mutex = threading.Lock()
        self._paths = {name: folder / name for name in (LOG, HEAD)}
        self._files: dict[str, int] = {}
        self.last: ChainHead | None = None
        """Head after the last record written by this process."""

    def open(self) -> None:
        """Create the folder, and set aside a line torn by a crash. The first `append` does the same."""
        with self._locked():
            self._current_head()

    def append(self, fields: Mapping[str, Any], *, sync: bool) -> int:
        """Add one record and return its number. `sync`: return only once it is on disk.

        Raises:
            OSError: it could not be written; no partial line is left.
        """
        with self._locked():
            return self._write(fields, self._current_head(), sync).seq

    def close(self) -> None:
        """Close the files."""
        with self._mutex:
            for name in list(self._files):
                self._close(name)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._mutex.acquire(timeout=file_locks.DEFAULT_TIMEOUT):
            raise TimeoutError(errno.ETIMEDOUT, "the disk does not answer")
        try:
            self.ensure_folder()
            self._lock_head()
            try:
                self._current(LOG)
                yield
            finally:
                fcntl.flock(self._files[HEAD], fcntl.LOCK_UN)
        finally:
            self._mutex.release()

    def ensure_folder(self) -> None:
        """Create the folder, accessible only by its owner."""
        make_private_folder(self.folder)
        if not self._files and stat.S_IMODE(self.folder.stat().st_mode) != 0o700:
            self.folder.chmod(0o700)

    def _lock_head(self) -> None:
        """Lock the current `head` file; a lock on a replaced file would exclude no other process."""
        while True:
            descriptor = self._current(HEAD)
            file_locks.acquire(descriptor, fcntl.LOCK_EX)
            if descriptor == self._current(HEAD):
                return

    def _current(self, name: str) -> int:
        """Descriptor of a file, reopened if another process moved or removed it."""
        path = self._paths[name]
        if name in self._files:
            with suppress(FileNotFoundError):
                if os.path.samestat(path.lstat(), os.fstat(self._files[name])):
                    return self._files[name]
            self._close(name)
        append = os.O_APPEND if name == LOG else 0
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | append, 0o600)
        self._files[name] = descriptor
        match_folder_owner(self.folder, descriptor)
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o600:
            os.fchmod(descriptor, 0o600)
        return descriptor

    def _close(self, name: str) -> None:
        os.close(self._files.pop(name))

    def _current_head(self) -> ChainHead:
        """Return the head; repair the chain first if the current file differs from what the last writer left."""
        head = ChainHead.parse(os.pread(self._files[HEAD], HEAD_BYTES, 0))
        size = os.fstat(self._files[LOG]).st_size
        if head is not None and head.size == size:
            return head
        return self._recover(head, size)

    def _recover(self, head: ChainHead | None, size: int) -> ChainHead:
        notes = []
        end, last = last_valid_record(self._files[LOG], size)
        if end < size:
            notes.append(f"{size - end} damaged bytes at the end of {LOG} were kept as {self._set_aside(end, size)}")
        older = rotated_files(self.folder)
        if last is None and older:
            last = _last_of(older[-1])
        if head is None:
            # After the first record, the writer may have been killed before it wrote its first head.
            if last is not None and last["seq"] > 1:
                notes.append(f"the file `{HEAD}` was missing or damaged: earlier truncation would go unnoticed")
            head = self._head_from(last, older)
        elif last is None or last["seq"] < head.seq:
            missing = last["seq"] + 1 if last else head.first
            if missing <= head.seq:
                notes.append(f"records {missing} to {head.seq} are missing: cut off, or lost when the power failed")
        elif last["seq"] > head.seq:
            # The writer was killed after writing the line and before updating the head.
            head = replace(head, seq=last["seq"], hash=last["hash"])
        head = replace(head, size=end, opened=head.opened if end else head.seq + 1)
        for note in notes:
            log.warning("audit log in %s: %s", self.folder, note)
            head = self._write(_note(note), head, sync=True)
        return head

    def _head_from(self, last: Mapping[str, Any] | None, older: list[Path]) -> ChainHead:
        """Rebuild the head of a chain without a head file."""
        if last is None:
            return ChainHead()
        opening = next((parse_record(line) for _, line in lines(self._files[LOG], TAIL)), None)
        opened = opening["seq"] if opening else last["seq"] + 1
        return ChainHead(last["seq"], last["hash"], first=_first_in(older[0]) if older else opened, opened=opened)

    def _set_aside(self, end: int, size: int) -> str:
        """Move everything from offset `end` on to a separate file."""
        kept = self.folder / f"{LOG}.bad-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.pread(self._files[LOG], size - end, end))
            file.flush()
            os.fsync(descriptor)
        os.ftruncate(self._files[LOG], end)
        return kept.name

    def _write(self, fields: Mapping[str, Any], head: ChainHead, sync: bool) -> ChainHead:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {"seq": head.seq + 1, "time": now, **fields, "prev": head.hash}
        body = json.dumps(record, separators=(",", ":")).encode("ascii")
        digest = hashlib.sha256(body).hexdigest()
        line = body[:-1] + HASH_KEY + digest.encode("ascii") + b'"}\n'
        if head.size and head.size + len(line) > self._largest:
            head = self._rotate(head)
        self._put(line, head.size, sync)
        head = replace(head, seq=head.seq + 1, hash=digest, size=head.size + len(line))
        self._write_head(head)
        self.last = head
        return head

    def _put(self, line: bytes, size: int, sync: bool) -> None:
        """Append a whole line or nothing."""
        descriptor = self._files[LOG]
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                _sync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise

    def _write_head(self, head: ChainHead) -> None:
        """Overwrite the head in place, using no new disk space. On failure, the next writer reads the log."""
        with suppress(OSError):
            os.pwrite(self._files[HEAD], head.pack(), 0)

    def _rotate(self, head: ChainHead) -> ChainHead:
        (self.folder / LOG).rename(self.folder / f"audit-{head.opened:012}.jsonl")
        self._current(LOG)
        older = rotated_files(self.folder)
        kept = older[1 - self._keep :]
        # Update the head before deleting: a crash in between leaves an extra file, not a chain that looks truncated.
        head = replace(head, first=_first_in(kept[0]), opened=head.seq + 1, size=0)
        self._write_head(head)
        for file in older[: -len(kept)]:
            file.unlink()
        with open_readonly(self.folder) as folder:
            os.fsync(folder)
        return head


def _note(text: str) -> dict[str, Any]:
    return {"who": "anvyl", "how": "itself", "tool": "audit", "arguments": {"told": text}, "outcome": "note"}


def _last_of(path: Path) -> dict[str, Any] | None:
    with open_readonly(path) as descriptor:
        return last_valid_record(descriptor, os.fstat(descriptor).st_size)[1]


def _first_in(path: Path) -> int:
    """The number of the first record of a rotated file, from its name."""
    digits = path.stem.removeprefix("audit-")
    return int(digits) if digits.isdigit() else 1
