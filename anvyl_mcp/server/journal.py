"""What this host was asked to change, by operation id, and how each ended: the memory behind "at most once".

One file of lines, each with its checksum. A change is on the disk before it acts; how it ended follows. In front of the
lines stands how many changes began, so that lines cut off are noticed; whatever is missing is then taken from the audit
log, where each change stands as well: a damaged journal never counts as an empty one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anvyl_mcp import file_locks
from anvyl_mcp.errors import AnvylError, Denied
from anvyl_mcp.server import trail
from anvyl_mcp.server.checked_lines import HEADER_BYTES, begun_in, header, packed, parse

log = logging.getLogger(__name__)

FILE = "operations.log"
LOCK = "lock"
KEEP = 10_000
"""Operations that are remembered."""
SECONDS = 24 * 3600.0
"""How long each is."""
LEAST = 1000
"""The newest are remembered whatever the clock says: it may jump."""
LARGEST = 16 * 1024 * 1024
"""Bytes after which the file is written anew; half of that is for results."""
LONGEST = 16 * 1024
"""Bytes of one ending; a larger result is not kept."""
ROOM = 64 * 1024
"""Bytes that must be free before a change begins, so that its end can be written too."""

End = Mapping[str, Any]
"""How an operation ended: `{"ok": result}`, `{"error": {"code", "message", "hint"}}`, or `{"dropped": reason}`."""
Place = tuple[int, int]
"""Where a line begins, and how long it is."""


@dataclass(frozen=True, slots=True)
class Known:
    """An operation that began. `call` is the digest of what was asked, empty when only the id is known."""

    call: str
    end: End | None


@dataclass(slots=True)
class _Entry:
    begun: dict[str, Any]
    end: Place | End | None = None
    """Where the end stands, or the end itself while it could not be written."""


class Journal:
    """The operations of this host, in a folder of their own. Several processes may use it; failures are `Denied`."""

    def __init__(
        self,
        folder: Path,
        *,
        recall: Callable[[], Iterable[str]] = tuple,
        keep: int = KEEP,
        seconds: float = SECONDS,
        least: int = LEAST,
        largest: int = LARGEST,
    ) -> None:
        """`recall` tells the ids of changes that began, the oldest first, from another source."""
        self.folder = folder
        self.trouble = ""
        """Why the last line could not be written; empty while all is well."""
        self._path = folder / FILE
        self._recall = recall
        self._keep, self._seconds, self._least, self._largest = keep, seconds, least, largest
        self._mutex = threading.Lock()
        self._file = -1
        self._size = 0
        self._begun = 0
        self._entries: dict[str, _Entry] = {}
        self._unwritten: dict[str, dict[str, Any]] = {}

    def open(self) -> None:
        """Read it when a server starts; what is damaged is moved aside and told. Never raises."""
        with suppress(Denied), self._changing():
            pass

    def find(self, operation: str) -> Known | None:
        """What is known of an operation; None when it never began here.

        Raises:
            Denied: the journal cannot be read, so nobody may act on it.
        """
        with self._changing():
            return self._known(operation)

    def start(self, operation: str, call: str, *, tool: str) -> Known | None:
        """Note that an operation is about to act. It is on the disk when this returns None; else it began before.

        Raises:
            Denied: that cannot be written, so it must not act.
        """
        with self._changing():
            if known := self._known(operation):
                return known
            self._need_room()
            begun = {"op": operation, "n": self._begun + 1, "call": call, "tool": tool, "at": round(time.time(), 3)}
            self._append(begun, begins=True)
            self._entries[operation] = _Entry(begun)
            self._compact_if_needed()
        return None

    def end(self, operation: str, end: End) -> None:
        """Note how an operation ended. Never raises: what was done is done, and this process remembers it."""
        if len(json.dumps(end)) > LONGEST:
            end = {"dropped": "its result was too large to keep"} if "ok" in end else {"dropped": "it failed"}
        self._note(operation, {"op": operation, "end": end})

    def void(self, operation: str) -> None:
        """Note that an operation did not act after all, and may begin again. Never raises."""
        self._note(operation, {"op": operation, "void": True})

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._mutex:
            self._forget()

    def _note(self, operation: str, line: dict[str, Any]) -> None:
        self._unwritten[operation] = line
        with suppress(Denied), self._changing():
            pass

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone among all threads and processes, with everything read that others wrote."""
        try:
            with self._locked():
                try:
                    self._settle()
                except OSError:
                    # What was read in part must not pass for the whole next time.
                    self._forget()
                    raise
                self._write_late()
                yield
        except OSError as error:
            raise self._refusal(error) from error
        if not self._unwritten:
            self.trouble = ""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._mutex.acquire(timeout=file_locks.WAIT):
            raise TimeoutError(errno.ETIMEDOUT, "the disk does not answer")
        try:
            handle = file_locks.opened(self.folder / LOCK)
            try:
                file_locks.take(handle, fcntl.LOCK_EX)
                yield
            finally:
                os.close(handle)
        finally:
            self._mutex.release()

    def _settle(self) -> None:
        if self._file >= 0 and not self._is_current():
            self._forget()
        if self._file < 0:
            self._open()
            return
        size = os.fstat(self._file).st_size
        if size < self._size:
            self._forget()
            self._open()
        elif size > self._size:
            self._accept(self._read(self._size, size))

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(self._path.lstat(), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _forget(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size, self._begun = -1, 0, 0
        self._entries.clear()

    def _open(self) -> None:
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            self._begin_anew()
            return
        size = os.fstat(self._file).st_size
        begun = begun_in(os.pread(self._file, HEADER_BYTES, 0))
        trouble = "its beginning is damaged" if begun is None else ""
        self._size = HEADER_BYTES
        trouble = self._read(HEADER_BYTES, size) or trouble
        if begun is not None and begun > self._begun:
            trouble = trouble or f"{begun - self._begun} operations are missing at its end"
        self._accept(trouble)

    def _accept(self, trouble: str) -> None:
        """Go on with what was read. A last line that is torn is cut off: its writer was stopped before it could act."""
        if trouble:
            self._recover(trouble)
        elif os.fstat(self._file).st_size > self._size:
            log.warning("the last line of %s was torn and is cut off", self._path)
            os.ftruncate(self._file, self._size)

    def _read(self, start: int, size: int) -> str:
        """Take in the lines between `start` and `size`, but for a last one that is torn; what is wrong with others."""
        data = os.pread(self._file, max(0, size - start), start)
        place = start
        damaged = 0
        for raw in data.splitlines(keepends=True):
            line = parse(raw)
            if line is not None:
                self._take(line, (place, len(raw)))
            elif place + len(raw) < size:
                damaged += 1
            else:
                break
            place += len(raw)
        self._size = place
        return f"{damaged} lines of it are damaged" if damaged else ""

    def _take(self, line: Mapping[str, Any], place: Place) -> None:
        operation = str(line["op"])
        if "call" in line:
            self._begun = max(self._begun, int(line["n"]))
            begun = {name: value for name, value in line.items() if name != "end"}
            self._entries[operation] = _Entry(begun, place if "end" in line else None)
        elif "void" in line:
            self._entries.pop(operation, None)
        elif operation in self._entries:
            self._entries[operation].end = place

    def _known(self, operation: str) -> Known | None:
        entry = self._entries.get(operation)
        if entry is None:
            return None
        end = entry.end
        if isinstance(end, tuple):
            line = parse(os.pread(self._file, end[1], end[0]))
            end = line["end"] if line else {"dropped": "its end cannot be read"}
        return Known(entry.begun["call"], end)

    def _write_late(self) -> None:
        """Write what could not be written before; what still cannot be is remembered here alone."""
        for operation, line in list(self._unwritten.items()):
            entry = self._entries.get(operation)
            if entry is None:
                del self._unwritten[operation]
                continue
            if "void" in line:
                del self._entries[operation]
            else:
                entry.end = line["end"]
            try:
                place = self._append(line)
            except OSError as error:
                if "void" in line:
                    self._entries[operation] = entry
                self._troubled(error)
                return
            if "end" in line:
                entry.end = place
            del self._unwritten[operation]

    def _append(self, line: Mapping[str, Any], *, begins: bool = False) -> Place:
        """Write a whole line or nothing. One that `begins` an operation is on the disk afterwards."""
        raw, start = packed(line), self._size
        try:
            if os.pwrite(self._file, raw, start) < len(raw):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if begins:
                os.pwrite(self._file, header(self._begun + 1), 0)
                os.fdatasync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, start)
                os.pwrite(self._file, header(self._begun), 0)
            raise
        self._size += len(raw)
        self._begun += begins
        return start, len(raw)

    def _need_room(self) -> None:
        disk = os.statvfs(self.folder)
        # Root may use the part that is kept back for it. Some file systems do not tell their size.
        free = (disk.f_bavail if os.geteuid() else disk.f_bfree) * disk.f_frsize
        if disk.f_blocks and free < ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _begin_anew(self) -> None:
        """There is no file: this host is new, or somebody removed it. What the other source knows began already."""
        self._recall_missing()
        self._write_anew(self._entries)

    def _recover(self, trouble: str) -> None:
        """Keep what is sound, take what is missing from the other source, and leave the damaged file beside."""
        aside = self._path.with_name(f"{FILE}.bad-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
        found = self._recall_missing()
        self._write_anew(self._entries, aside)
        told = "the journal %s was damaged: %s. It is kept as %s; %d operations were taken from the audit log"
        log.warning(told, self._path, trouble, aside.name, found)

    def _recall_missing(self) -> int:
        try:
            recalled = [operation for operation in self._recall() if operation not in self._entries]
        except AnvylError as error:
            raise OSError(errno.EIO, f"it is damaged, and the audit log cannot help: {error.message}") from error
        for operation in recalled[-self._keep :]:
            begun = {"op": operation, "n": self._begun, "call": "", "tool": "", "at": round(time.time(), 3)}
            self._entries[operation] = _Entry(begun)
        return len(recalled)

    def _compact_if_needed(self) -> None:
        if self._size > self._largest or len(self._entries) > self._keep + max(self._keep // 8, 1):
            with suppress(OSError):
                self._write_anew(self._worth_keeping())

    def _worth_keeping(self) -> dict[str, _Entry]:
        names = list(self._entries)[-self._keep :]
        oldest = time.time() - self._seconds
        young = [name for name in names[: -self._least] if self._entries[name].begun["at"] >= oldest]
        return {name: self._entries[name] for name in [*young, *names[-self._least :]]}

    def _write_anew(self, entries: Mapping[str, _Entry], aside: Path | None = None) -> None:
        """Write a new file beside and move it over, the old one to `aside`; one line for each operation.

        Raises:
            OSError: it cannot be written; the old file is as it was.
        """
        beside = self.folder / f".{FILE}-{os.getpid()}"
        lines = []
        room = self._largest // 2
        # Where there is no room for all results, the oldest are dropped: that they began stays known.
        for name, entry in reversed(list(entries.items())):
            known = self._known(name)
            line = dict(entry.begun) if known is None or known.end is None else {**entry.begun, "end": known.end}
            raw = packed(line)
            if len(raw) > room:
                raw = packed({**entry.begun, "end": {"dropped": "its result is no longer kept"}})
            room -= min(room, len(raw))
            lines.append(raw)
        handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            begun = max((entry.begun["n"] for entry in entries.values()), default=0)
            content = b"".join([header(begun), *reversed(lines)])
            if os.write(handle, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
            if aside is not None:
                self._path.rename(aside)
            beside.rename(self._path)
        except OSError:
            with suppress(OSError):
                beside.unlink()
            raise
        finally:
            os.close(handle)
        with trail.reading(self.folder) as folder:
            os.fsync(folder)
        self._forget()
        self._open()

    def _troubled(self, error: OSError) -> None:
        """Warn once, not at every call."""
        trouble = f"the journal of operations cannot be written: {error.strerror or error}"
        if trouble != self.trouble:
            log.warning("%s (%s)", trouble, self.folder)
        self.trouble = trouble

    def _refusal(self, error: OSError) -> Denied:
        self._troubled(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = f"free space on the disk of {self.folder}"
        else:
            hint = f"see who owns {self.folder} and whether it may be written"
        return Denied(f"changes are refused: {self.trouble}", hint=hint)
