"""Read the end of a container's log in bounded memory and time."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from docker.errors import APIError

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Conflict, EngineError, InvalidInput
from anvyl_mcp.core.redaction.key_blocks import KeyBlockRedactor
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.engine.logs.cursor import Cursor
from anvyl_mcp.server.engine.logs.frames import MAX_LINE_BYTES, LogLine, parse_lines
from anvyl_mcp.server.engine.logs.lines import visible_text
from anvyl_mcp.server.engine.timestamps import SECOND, to_nanoseconds

MAX_TAIL_BYTES = 96 * 1024
MAX_SEARCHED_LINES = 20_000
"""Lines from the end of the log that `grep` searches."""
MAX_SEARCHED_LINE_BYTES = 1024**2
"""Searched part of each line; applications that log JSON write lines of 150 KB."""
READ_SECONDS = 10
WHOLE_LOG_SECONDS = 3
"""Limit for reading a whole log if only its end was requested."""
FIRST_BYTE_SECONDS = 15
"""With `since` the engine reads a log from its beginning before it sends anything."""
DRIVERS_WITHOUT_LOG = ("none", "passthrough", "passthrough-tty")
UNREADABLE = re.compile(r"does not support reading|cannot read logs|not logging output", re.IGNORECASE)
"""Messages of Docker and Podman for a log driver that cannot be read."""


@dataclass(frozen=True)
class LogTail:
    """The last lines, whether others were left out, the cursor to continue from, and a note on its limits."""

    lines: list[str]
    truncated: bool
    next_since: str
    note: str = ""
    times: Sequence[int | None] = ()
    """When each line was written, in nanoseconds since 1970; None if unknown."""


class _TailBuffer:
    """Keeps the newest lines, limited by number and size."""

    def __init__(self, most: int) -> None:
        self.lines: deque[tuple[int | None, str]] = deque()
        self.left_out = 0
        self._most, self._size = most, 0

    def add(self, at: int | None, line: str) -> None:
        self.lines.append((at, line))
        self._size += len(line)
        while len(self.lines) > self._most or self._size > MAX_TAIL_BYTES:
            self._size -= len(self.lines.popleft()[1])
            self.left_out += 1


class _LogScan:
    """State of one pass over a log."""

    def __init__(self, tail: int, grep: str, start: Cursor) -> None:
        self.start, self.next = start, start
        self.kept, self.read = _TailBuffer(tail), 0
        self.timed_out = self.unsearched = self.same_timestamp = False
        self._wanted, self._blocks = grep.casefold(), KeyBlockRedactor()
        self._skipped = 0

    def run(self, lines: Iterator[LogLine], seconds: float | None = None) -> None:
        """Read to the end, or until the time limit."""
        deadline = time.monotonic() + (READ_SECONDS if seconds is None else seconds)
        for line in lines:
            at = to_nanoseconds(line.stamp)
            self.same_timestamp = not self.read or (self.same_timestamp and at == self.next.at)
            self.read += 1
            visible = visible_text(line, self._wanted, self._blocks)
            if at is None or self._is_new(at):
                self.next = self.next if at is None else self.next.after(at)
                if visible is not None:
                    self.kept.add(at, visible)
                elif line.unsearched:
                    self.unsearched = True
            if time.monotonic() > deadline:
                self.timed_out = True
                return

    def _is_new(self, at: int) -> bool:
        if at == self.start.at and self._skipped < self.start.seen:
            self._skipped += 1
            return False
        return at >= self.start.at


def read_log(engine: Engine, container: Mapping[str, Any], *, tail: int, since: str, grep: str) -> LogTail:
    """The last `tail` lines since a time or duration ago that contain `grep`.

    Raises:
        Conflict: the engine cannot read the container's log because of its log driver.
    """
    start = Cursor.parse(since)
    most = (MAX_SEARCHED_LINES if grep else tail) + 1 + start.seen
    scan, whole = _LogScan(tail, grep, start), engine.is_podman
    if whole:
        # If only the last lines are requested, Podman 4 reorders or omits parts of long ones.
        seconds = READ_SECONDS if grep else WHOLE_LOG_SECONDS
        scan.run(_request_lines(engine, container, tail="all", start=start, grep=bool(grep)), seconds)
    if not whole or (scan.timed_out and not grep):
        scan, whole = _LogScan(tail, grep, start), False
        scan.run(_request_lines(engine, container, tail=most, start=start, grep=bool(grep)))
    cut = not whole and scan.read >= most
    if cut and scan.same_timestamp and scan.next.at > start.at:
        # All lines have the same timestamp, and earlier ones may share it: to count them, read all with that timestamp.
        scan = _LogScan(tail, grep, Cursor(scan.next.at))
        scan.run(_request_lines(engine, container, tail="all", start=scan.start, grep=bool(grep)))
    note = ""
    if scan.timed_out:
        note = f"the engine is slow: lines after {scan.next.stamp} were not read; ask again with `since`"
    elif grep and cut:
        note = f"only the last {MAX_SEARCHED_LINES:,} lines were searched; `since` searches a part of the log"
    elif scan.unsearched:
        note = f"only the first {text.format_size(MAX_SEARCHED_LINE_BYTES)} of longer lines were searched"
    return LogTail(
        lines=[line for _, line in scan.kept.lines],
        truncated=scan.kept.left_out > 0 or bool(note),
        next_since=str(scan.next),
        note=note,
        times=[at for at, _ in scan.kept.lines],
    )


def _request_lines(
    engine: Engine, container: Mapping[str, Any], *, tail: int | str, start: Cursor, grep: bool
) -> Iterator[LogLine]:
    """Lines up to now by the engine's clock, so that a container that keeps writing does not block."""
    options: dict[str, Any] = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": 0, "tail": tail}
    if start != Cursor():
        options["since"] = max(0, start.second)
    with _explain_log_driver(container), engine_errors(doing="to show its log"):
        answer = _open(engine, str(container["Id"]), options)
    with engine_errors(doing="to show its log"), closing(answer):
        end = _end_of_answer(answer.headers.get("Date", ""))
        most = MAX_SEARCHED_LINE_BYTES if grep else MAX_LINE_BYTES
        for line in parse_lines(_chunks(answer), raw=bool(container["Config"]["Tty"]), most=most):
            yield line
            if (to_nanoseconds(line.stamp) or 0) > end:
                return


@contextmanager
def _explain_log_driver(container: Mapping[str, Any]) -> Iterator[None]:
    """Name the container's log driver in errors that it causes."""
    driver = text.clean(str(container["HostConfig"]["LogConfig"].get("Type") or ""))
    name = text.clean(str(container["Name"])).lstrip("/")
    try:
        yield
    except (EngineError, Conflict, InvalidInput) as error:
        if not driver or not UNREADABLE.search(error.message):
            raise
        if driver in DRIVERS_WITHOUT_LOG:
            raise Conflict(
                f"`{name}` has no log: its log driver is `{driver}`",
                hint="recreate it with another log driver, like `local`",
            ) from error
        raise Conflict(
            f"the log of `{name}` cannot be read here: its log driver `{driver}` sends it elsewhere",
            hint=f"look where `{driver}` sends it, or recreate the container with the log driver `local`",
        ) from error


def _open(engine: Engine, container: str, options: Mapping[str, Any]) -> requests.Response:
    """Request the log directly: the SDK reads a terminal's log byte by byte and removes the timeout."""
    client = engine.client(FIRST_BYTE_SECONDS)
    url = client.container_url(container, "logs")
    answer = client.get(url, params=options, stream=True, timeout=FIRST_BYTE_SECONDS)
    if answer.status_code >= 400:
        with closing(answer):
            raise APIError(answer.reason, response=answer, explanation=_explanation(answer))
    return answer


def _explanation(answer: requests.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (requests.JSONDecodeError, KeyError, TypeError):
        return answer.text[:400]


def _chunks(answer: requests.Response) -> Iterator[bytes]:
    while chunk := answer.raw.read1(64 * 1024):
        yield chunk


def _end_of_answer(date: str) -> int:
    """Nanoseconds just after the response's date; later lines were written while reading."""
    try:
        return (int(parsedate_to_datetime(date).timestamp()) + 2) * SECOND - 1
    except ValueError:
        return 2**63
