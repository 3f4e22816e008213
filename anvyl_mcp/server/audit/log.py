"""Who did what on this host, how it ended and when: a record that cannot be changed unnoticed.

A change is on the disk before it acts, and is refused when it cannot be. A read gets one record after it, and goes on
with a warning when that fails. Only changes are synchronised: losing the last reads in a power failure is no harm.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from anvyl_mcp.core.errors import AnvylError, Cancelled, Denied, Timeout, Unknown
from anvyl_mcp.core.redaction.redact_text import redact_arguments, to_log_line
from anvyl_mcp.server.audit import reader
from anvyl_mcp.server.audit.reader import Verification
from anvyl_mcp.server.audit.writer import MAX_FILE_BYTES, MAX_FILES, Chain

log = logging.getLogger(__name__)

AuditOutcome = Literal["started", "ok", "denied", "failed", "cancelled", "unknown", "note"]
"""`started`: about to act, or, when nothing follows, never heard of again. `note`: the log about itself."""

MIN_FREE_BYTES = 64 * 1024
"""Bytes that must be free before a change begins, so that its end can be written too."""
RESERVE_BYTES = 1024**2
"""Bytes kept back for the ends of changes that had begun when the disk became full."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Entry:
    """A call that began; give it to `Audit.end`."""

    tool: str
    arguments: dict[str, Any]
    who: str
    how: str
    address: str
    operation: str
    changes: bool
    started: int | None
    clock: float


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the log. `started` is the number of the record that the same change began with."""

    seq: int
    time: str
    who: str = ""
    how: str = ""
    address: str = ""
    tool: str = ""
    arguments: Mapping[str, Any] | None = None
    outcome: str = ""
    error: str | None = None
    seconds: float | None = None
    operation: str = ""
    started: int | None = None
    prev: str = ""
    hash: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return asdict(self)


class Audit:
    """The audit log of this host, in a folder of its own. Nothing is opened before it is needed."""

    def __init__(self, folder: Path, *, largest: int = MAX_FILE_BYTES, keep: int = MAX_FILES) -> None:
        self.folder = folder
        self.trouble = ""
        """Why the last record could not be written; empty while all is well."""
        self.failures = 0
        """How often one could not be, since the server started."""
        self._chain = Chain(folder, largest=largest, keep=keep)
        self._reserve = _Reserve(folder / "reserve")

    def open(self) -> None:
        """Open the log when a server starts: what a crash left torn is moved aside and told. Never raises."""
        try:
            self._chain.open()
            self._reserve.need()
        except OSError as error:
            self._troubled(error)

    def begin(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        who: str,
        how: str,
        address: str = "",
        operation: str = "",
        changes: bool,
    ) -> Entry:
        """Note that a call begins. When it `changes` something, its record is on the disk when this returns.

        Raises:
            Denied: the record of a change cannot be written, so it must not act.
        """
        entry = Entry(
            tool=to_log_line(tool),
            arguments=redact_arguments(arguments),
            who=to_log_line(who),
            how=to_log_line(how),
            address=to_log_line(address),
            operation=to_log_line(operation),
            changes=changes,
            started=None,
            clock=time.monotonic(),
        )
        if not changes:
            return entry
        try:
            self._chain.need_folder()
            self._reserve.need()
            number = self._chain.append(_fields(entry, "started"), sync=True)
        except OSError as error:
            self._troubled(error)
            raise self._refusal(error) from error
        self.trouble = ""
        return replace(entry, started=number)

    def end(self, entry: Entry, outcome: AuditOutcome, error: str = "") -> None:
        """Note how a call ended; `error` is the error's code. Never raises: what was done is done."""
        record = _fields(entry, outcome)
        record["error"] = to_log_line(error) or None
        record["seconds"] = round(time.monotonic() - entry.clock, 6)
        try:
            self._append(record, changes=entry.changes)
        except OSError as failure:
            self._troubled(failure)
        else:
            self.trouble = ""

    def read(
        self, *, since: datetime | None = None, tool: str = "", who: str = "", operation: str = "", limit: int = 1000
    ) -> list[Record]:
        """The last `limit` calls that fit, the oldest first; a change that ended is one record, its end.

        Raises:
            AnvylError: the log cannot be read.
        """
        wanted = {"tool": tool, "who": who, "operation": operation}
        found: OrderedDict[int, Record] = OrderedDict()
        try:
            for raw in reader.records(self.folder, since=since.timestamp() if since else 0):
                if any(value and raw.get(name) != value for name, value in wanted.items()) or not _after(raw, since):
                    continue
                record = Record(**{name: value for name, value in raw.items() if name in _RECORD_FIELDS})
                found.pop(record.started or 0, None)
                found[record.seq] = record
                if len(found) > limit:
                    found.popitem(last=False)
        except OSError as error:
            raise self._unreadable(error) from error
        return list(found.values())

    def operations(self) -> list[str]:
        """The ids of all changes that began, the oldest first.

        Raises:
            AnvylError: the log cannot be read.
        """
        try:
            # A full log has 100 MB, mostly of reads.
            records = reader.records(self.folder, having=b'"outcome":"started"')
            found = [raw.get("operation") for raw in records if raw.get("outcome") == "started"]
        except OSError as error:
            raise self._unreadable(error) from error
        return [operation for operation in found if isinstance(operation, str) and operation]

    def verify(self) -> Verification:
        """Whether every record is still there, unaltered and in its place.

        Raises:
            AnvylError: the log cannot be read.
        """
        try:
            return reader.verify(self.folder)
        except OSError as error:
            raise self._unreadable(error) from error

    @property
    def head(self) -> dict[str, Any] | None:
        """`{"seq", "hash"}` of the last record of this process; None before there is one."""
        last = self._chain.last
        return {"seq": last.seq, "hash": last.hash} if last else None

    def witness(self, numbers: Collection[int]) -> dict[str, Any] | None:
        """Where the log ends, where it begins, and the hashes of these records: `{"seq", "hash", "first", "at"}`.

        None when it cannot be read.
        """
        try:
            head, found = reader.hashes(self.folder, numbers)
        except OSError:
            return None
        at = {str(number): found.get(number) for number in numbers}
        return {"seq": head.seq, "hash": head.hash, "first": head.first, "at": at}

    def close(self) -> None:
        """Close its files."""
        self._chain.close()

    def _append(self, record: Mapping[str, Any], *, changes: bool) -> None:
        try:
            self._chain.append(record, sync=changes)
        except OSError as error:
            if not changes or error.errno not in DISK_FULL:
                raise
            self._reserve.spend()
            self._chain.append(record, sync=changes)

    def _troubled(self, error: OSError) -> None:
        """Warn once, not at every call: a full disk is not helped by a long log elsewhere."""
        trouble = f"the audit log cannot be written: {_reason(error)}"
        if trouble != self.trouble:
            log.warning("%s (%s)", trouble, self.folder)
        self.trouble = trouble
        self.failures += 1

    def _refusal(self, error: OSError) -> AnvylError:
        return Denied(f"changes are refused: the audit log cannot be written: {_reason(error)}", hint=self._hint(error))

    def _unreadable(self, error: OSError) -> AnvylError:
        return AnvylError(f"the audit log cannot be read: {_reason(error)}", hint=self._hint(error))

    def _hint(self, error: OSError) -> str:
        if error.errno in DISK_FULL:
            return f"free space on the disk of {self.folder}"
        if isinstance(error, TimeoutError):
            return f"see what holds the files in {self.folder}: fuser -v {self.folder}/{reader.HEAD}"
        return f"see who owns {self.folder} and whether it may be written"


class _Reserve:
    """Space kept back on the disk, smaller on a tiny one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._mutex = threading.Lock()

    def need(self) -> None:
        """Keep space back again if it was spent, and leave room for a change's records.

        Raises:
            OSError: the disk has no room for both.
        """
        disk = os.statvfs(self._file.parent)
        # Root may use the part that is kept back for it.
        free = (disk.f_bavail if os.geteuid() else disk.f_bfree) * disk.f_frsize
        wanted = min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 8)
        with self._mutex:
            held = self._file.stat().st_size if self._file.exists() else 0
            # Some file systems do not tell their size.
            if wanted and free + held < wanted + MIN_FREE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if held < wanted:
                self._fill(wanted)

    def _fill(self, size: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with suppress(OSError), os.fdopen(os.open(self._file, flags, 0o600), "wb") as file:
            # Random: some file systems store zeros in no space at all.
            file.write(os.urandom(size))

    def spend(self) -> None:
        """Give the space back to the log."""
        with suppress(OSError):
            os.truncate(self._file, 0)


def outcome_of(error: BaseException | None, *, changes: bool = True) -> tuple[AuditOutcome, str]:
    """How a call that ended with `error`, or with none, is written down: the outcome and the error's code."""
    match error:
        case None:
            return "ok", ""
        case Denied():
            return "denied", error.code
        case Unknown():
            return "unknown", error.code
        case Timeout() if changes:
            return "unknown", error.code
        case Cancelled():
            return "cancelled", error.code
        case AnvylError():
            return "failed", error.code
        case Exception():
            return "failed", "internal_error"
    return "cancelled", Cancelled.code


def _fields(entry: Entry, outcome: AuditOutcome) -> dict[str, Any]:
    names = ("who", "how", "address", "tool", "arguments")
    kept = {name: getattr(entry, name) for name in names}
    return {
        **kept,
        "outcome": outcome,
        "error": None,
        "seconds": None,
        "operation": entry.operation,
        "started": entry.started,
    }


def _after(raw: Mapping[str, Any], since: datetime | None) -> bool:
    if since is None:
        return True
    try:
        return datetime.fromisoformat(raw["time"]) >= since.astimezone(UTC)
    except (ValueError, TypeError):
        return True


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


_RECORD_FIELDS = frozenset(field.name for field in fields(Record))
