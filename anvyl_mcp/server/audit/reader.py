"""Reads and verifies a chain of audit records."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anvyl_mcp.core import file_locks

log = logging.getLogger(__name__)

LOG = "audit.jsonl"
ROTATED = "audit-*.jsonl"
HEAD = "head"
HEAD_BYTES = 256
HASH_KEY = b',"hash":"'
GENESIS = "0" * 64
TAIL = 256 * 1024
"""Bytes at the end that are searched for a valid line; no line is nearly as long."""


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The head file: last record of the chain, first one that still exists, and the size of the current file."""

    seq: int = 0
    hash: str = GENESIS
    first: int = 1
    opened: int = 1
    size: int = 0

    @classmethod
    def parse(cls, packed: bytes) -> ChainHead | None:
        """Parse the content of the head file; None if it is empty or damaged."""
        try:
            head = cls(**json.loads(packed))
        except (ValueError, TypeError):
            return None
        numbers = (head.seq, head.first, head.opened, head.size)
        return head if all(type(number) is int for number in numbers) and isinstance(head.hash, str) else None

    def pack(self) -> bytes:
        """Serialize the head to a fixed length, so that it can be overwritten in place."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(fields).ljust(HEAD_BYTES - 1).encode("ascii") + b"\n"


@dataclass(frozen=True, slots=True)
class Verification:
    """Result of verifying the chain; `problem` is empty if it is intact. `notes` are recorded repairs."""

    records: int
    files: int
    head: str
    problem: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _ChainFile:
    """An open file of the chain and its size at the time of the snapshot."""

    name: str
    descriptor: int
    size: int

    def lines(self) -> Iterator[tuple[int, bytes]]:
        return lines(self.descriptor, self.size)


def records(folder: Path, *, since: float = 0, having: bytes = b"") -> Iterator[dict[str, Any]]:
    """Valid records, oldest first. Skips files last written before `since` and lines without `having`."""
    with ExitStack() as opened:
        _, files = _snapshot(folder, opened)
        for file in files:
            if os.fstat(file.descriptor).st_mtime < since:
                continue
            for number, line in file.lines():
                if having not in line:
                    continue
                if record := parse_record(line):
                    yield record
                else:
                    log.warning("%s, line %d, cannot be read: see `anvyl-mcp audit verify`", file.name, number)


def verify(folder: Path) -> Verification:
    """Check the chain up to the first broken record."""
    with ExitStack() as opened:
        head, files = _snapshot(folder, opened)
        check = _ChainCheck(head)
        for file in files:
            for number, line in file.lines():
                if problem := check.step(line):
                    return check.result(len(files), f"{file.name}, line {number}: {problem}")
        return check.result(len(files), check.end())


def hashes(folder: Path, numbers: Collection[int]) -> tuple[ChainHead, dict[int, str]]:
    """The head of the chain, and the hashes of those of these records that exist and are valid."""
    with ExitStack() as opened:
        head, files = _snapshot(folder, opened)
        found = {}
        for file in reversed(files):
            missing = [number for number in numbers if number not in found]
            content = b"\n" + os.pread(file.descriptor, file.size, 0) if missing else b""
            for number in missing:
                start = content.find(b'\n{"seq":%d,' % number) + 1
                record = parse_record(content[start : content.find(b"\n", start)]) if start else None
                if record is not None:
                    found[number] = str(record["hash"])
        return head or ChainHead(), found


class _ChainCheck:
    """Checks a chain line by line; each step returns the problem of a line, or an empty string."""

    def __init__(self, head: ChainHead | None) -> None:
        self._head = head
        self._first = head.first if head else 1
        self._seq = self._records = 0
        self._hash = GENESIS
        self._notes: list[str] = []

    def step(self, line: bytes) -> str:
        record = parse_record(line)
        if record is None:
            return f"record {self._seq + 1} was altered, or its line is torn"
        seq = record["seq"]
        if not self._records and 1 < seq <= self._first:
            # Earlier files were deleted by rotation.
            self._seq, self._hash = seq - 1, record["prev"]
        if seq != self._seq + 1:
            return f"record {self._seq + 1} is missing here: the line holds record {seq}"
        if record["prev"] != self._hash:
            return f"record {seq} does not follow record {seq - 1}: one of the two was altered"
        if self._head and seq == self._head.seq and record["hash"] != self._head.hash:
            return f"record {seq} was altered: it differs from the last record written"
        if record.get("outcome") == "note":
            self._notes.append(f"record {seq}: {record['arguments']['told']}")
        self._seq, self._hash = seq, record["hash"]
        self._records += 1
        return ""

    def end(self) -> str:
        """Return the problem at the end of the chain, or an empty string."""
        if self._head is None:
            return f"the file `{HEAD}` is missing, so records may have been cut off at the end" if self._records else ""
        if self._seq >= self._head.seq:
            return ""
        first = self._seq + 1 if self._records else self._first
        return f"the log ends too early: records {first} to {self._head.seq} are missing"

    def result(self, files: int, problem: str) -> Verification:
        return Verification(self._records, files, self._hash, problem, tuple(self._notes))


def parse_record(line: bytes) -> dict[str, Any] | None:
    """Parse a line; None if it is malformed or its hash is wrong."""
    body, key, rest = line.rpartition(HASH_KEY)
    if not key or len(rest) != 66 or not rest.endswith(b'"}'):
        return None
    if hashlib.sha256(body + b"}").hexdigest().encode("ascii") != rest[:64]:
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    kinds = {"seq": int, "prev": str, "time": str, "arguments": dict}
    good = isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in kinds.items())
    return record if good else None


def lines(descriptor: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Numbered lines of the first `size` bytes. A last line without a line end is made invalid."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        for number, line in enumerate(file, 1):
            size -= len(line)
            if size < 0:
                return
            yield number, line[:-1] if line.endswith(b"\n") else line + b"\x00"


def last_valid_record(descriptor: int, size: int) -> tuple[int, dict[str, Any] | None]:
    """The end offset of the last valid line, and its record; (0, None) if there is none."""
    start = max(0, size - TAIL)
    tail = os.pread(descriptor, size - start, start)
    end = tail.rfind(b"\n") + 1
    while end:
        begin = tail.rfind(b"\n", 0, end - 1) + 1
        if record := parse_record(tail[begin : end - 1]):
            return start + end, record
        end = begin
    return 0, None


@contextmanager
def open_readonly(path: Path) -> Iterator[int]:
    """Open a file or folder for reading and yield its descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def rotated_files(folder: Path) -> list[Path]:
    """The files before the current one, oldest first."""
    return sorted(folder.glob(ROTATED))


def _snapshot(folder: Path, opened: ExitStack) -> tuple[ChainHead | None, list[_ChainFile]]:
    """The head and all files, taken while no writer is active. Needs no write permission."""
    if not (folder / HEAD).exists():
        files = _files(folder, opened)
        # The first writer may have started in between.
        if not files or not (folder / HEAD).exists():
            return None, files
    with open_readonly(folder / HEAD) as descriptor:
        file_locks.acquire(descriptor, fcntl.LOCK_SH)
        return ChainHead.parse(os.pread(descriptor, HEAD_BYTES, 0)), _files(folder, opened)


def _files(folder: Path, opened: ExitStack) -> list[_ChainFile]:
    found = []
    for path in [*rotated_files(folder), folder / LOG]:
        if path.exists():
            descriptor = opened.enter_context(open_readonly(path))
            found.append(_ChainFile(path.name, descriptor, os.fstat(descriptor).st_size))
    return found
