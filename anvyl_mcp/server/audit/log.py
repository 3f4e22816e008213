"""Audit log: who did what on this host, when, and how it ended, in a tamper-evident chain.

A change is recorded on disk before it acts, and is refused if that fails. A read is recorded after it ends; if that
fails, the read still succeeds and a warning is logged. Only changes are synced: a power failure may lose recent reads.
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
from anvyl_mcp.core.files import match_folder_owner
from anvyl_mcp.core.redaction.redact_text import redact_arguments, to_log_line
from anvyl_mcp.server.audit import reader
from anvyl_mcp.server.audit.reader import Verification
from anvyl_mcp.server.audit.writer import MAX_FILE_BYTES, MAX_FILES, Chain

log = logging.getLogger(__name__)

AuditOutcome = Literal["started", "ok", "denied", "failed", "cancelled", "unknown", "note"]
"""`started`: about to act; without a later record, the outcome is unknown. `note`: about the log itself."""

MIN_FREE_BYTES = 64 * 1024
"""Bytes that must be free before a change begins, so that its end can be written too."""
RESERVE_BYTES = 1024**2
"""Bytes kept in reserve to record the ends of running changes when the disk is full."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Entry:
    """A call that began; pass it to `Audit.end`."""

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
    """One line of the log. `started` is the number of the record in which the same change began."""

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
        """The record as a JSON object."""
        return asdict(self)


class Audit:
    """The audit log of this host, in its own folder. Files are opened when first needed."""

    def __init__(self, folder: Path, *, largest: int = MAX_FILE_BYTES, keep: int = MAX_FILES) -> None:
        self.folder = folder
        self.trouble = ""
        """Why the last record could not be written; empty while all is well."""
        self.failures = 0
        """Number of records that could not be written since the server started."""
        self._chain = Chain(folder, largest=largest, keep=keep)
        self._reserve = _Reserve(folder / "reserve")

    def open(self) -> None:
        """Open the log when a server starts: a line torn by a crash is set aside and logged. Never raises."""
        try:
            self._chain.open()
            self._reserve.ensure()
        except OSError as error:
            self._report_failure(error)

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
        """Record that a call begins. If it `changes` something, the record is on disk when this returns.

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
            self._chain.ensure_folder()
            self._reserve.ensure()
            number = self._chain.append(_fields(entry, "started"), sync=True)
        except OSError as error:
            self._report_failure(error)
            raise self._refusal(error) from error
        self.trouble = ""
        return replace(entry, started=number)

    def end(self, entry: Entry, outcome: AuditOutcome, error: str = "") -> None:
        """Record how a call ended; `error` is the error code. Never raises: the call has already acted."""
        record = _fields(entry, outcome)
        record["error"] = to_log_line(error) or None
        record["seconds"] = round(time.monotonic() - entry.clock, 6)
        try:
            self._append(record, changes=entry.changes)
        except OSError as failure:
            self._report_failure(failure)
        else:
            self.trouble = ""

    def read(
        self, *, since: datetime | None = None, tool: str = "", who: str = "", operation: str = "", limit: int = 1000
    ) -> list[Record]:
        """Return the last `limit` matching calls, oldest first. A change that ended is one record, its last.

        Raises:
            AnvylError: the log cannot be read.
        """
        filters = {"tool": tool, "who": who, "operation": operation}
        found: OrderedDict[int, Record] = OrderedDict()
        try:
            for raw in reader.records(self.folder, since=since.timestamp() if since else 0):
                if any(value and raw.get(name) != value for name, value in filters.items()) or not _after(raw, since):
                    continue
                record = Record(**{name: value for name, value in raw.items() if name in _RECORD_FIELDS})
                found.pop(record.started or 0, None)
                found[record.seq] = record
                if len(found) > limit:
                    found.popitem(last=False)
        except OSError as error:
            raise self._read_error(error) from error
        return list(found.values())

    def operations(self) -> list[str]:
        """Return the operation ids of all changes that began, oldest first.

        Raises:
            AnvylError: the log cannot be read.
        """
        try:
            # A full log has over 100 MB, mostly reads.
            records = reader.records(self.folder, having=b'"outcome":"started"')
            found = [raw.get("operation") for raw in records if raw.get("outcome") == "started"]
        except OSError as error:
            raise self._read_error(error) from error
        return [operation for operation in found if isinstance(operation, str) and operation]

    def verify(self) -> Verification:
        """Check that every record is present, unaltered and in order.

        Raises:
            AnvylError: the log cannot be read.
        """
        try:
            return reader.verify(self.folder)
        except OSError as error:
            raise self._read_error(error) from error

    @property
    def head(self) -> dict[str, Any] | None:
        """`{"seq", "hash"}` of the last record written by this process; None before the first."""
        last = self._chain.last
        return {"seq": last.seq, "hash": last.hash} if last else None

    def witness(self, numbers: Collection[int]) -> dict[str, Any] | None:
        """The end and first record of the log, and the hashes of these records: `{"seq", "hash", "first", "at"}`.

        None if the log cannot be read.
        """
        try:
            head, found = reader.hashes(self.folder, numbers)
        except OSError:
            return None
        at = {str(number): found.get(number) for number in numbers}
        return {"seq": head.seq, "hash": head.hash, "first": head.first, "at": at}

    def close(self) -> None:
        """Close the log files."""
        self._chain.close()

    def _append(self, record: Mapping[str, Any], *, changes: bool) -> None:
        try:
            self._chain.append(record, sync=changes)
        except OSError as error:
            if not changes or error.errno not in DISK_FULL:
                raise
            self._reserve.release()
            self._chain.append(record, sync=changes)

    def _report_failure(self, error: OSError) -> None:
        """Log a failure once, not at every call, to spare a full disk."""
        trouble = f"the audit log cannot be written: {_reason(error)}"
        if trouble != self.trouble:
            log.warning("%s (%s)", trouble, self.folder)
        self.trouble = trouble
        self.failures += 1

    def _refusal(self, error: OSError) -> AnvylError:
        return Denied(f"changes are refused: the audit log cannot be written: {_reason(error)}", hint=self._hint(error))

    def _read_error(self, error: OSError) -> AnvylError:
        return AnvylError(f"the audit log cannot be read: {_reason(error)}", hint=self._hint(error))

    def _hint(self, error: OSError) -> str:
        if error.errno in DISK_FULL:
            return f"free space on the disk of {self.folder}"
        if isinstance(error, TimeoutError):
            return f"find the process that has the files open: fuser -v {self.folder}/{reader.HEAD}"
        return f"check the owner and permissions of {self.folder}"


class _Reserve:
    """Reserved disk space, less on a tiny disk."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._mutex = threading.Lock()

    def ensure(self) -> None:
        """Reserve the space again if it was released, and check that a change's records fit.

        Raises:
            OSError: the disk has no room for both.
        """
        disk = os.statvfs(self._file.parent)
        # Root may use the reserved blocks.
        free = (disk.f_bavail if os.geteuid() else disk.f_bfree) * disk.f_frsize
        wanted = min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 8)
        with self._mutex:
            held = self._file.stat().st_size if self._file.exists() else 0
            # Some file systems report a size of zero.
            if wanted and free + held < wanted + MIN_FREE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if held < wanted:
                self._fill(wanted)

    def _fill(self, size: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with suppress(OSError), os.fdopen(os.open(self._file, flags, 0o600), "wb") as file:
            match_folder_owner(self._file.parent, file.fileno())
            # Random bytes: some file systems store zeros without using space.
            file.write(os.urandom(size))

    def release(self) -> None:
        """Free the space for the log."""
        with suppress(OSError):
            os.truncate(self._file, 0)


def outcome_of(error: BaseException | None, *, changes: bool = True) -> tuple[AuditOutcome, str]:
    """The outcome and error code to record for a call that ended with `error`, or without one."""
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
