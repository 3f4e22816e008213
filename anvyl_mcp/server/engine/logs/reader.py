"""The end of a container's log, read in bounded memory."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator, Mapping
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
"""Lines that `grep` looks through, from the end."""
MAX_SEARCHED_LINE_BYTES = 1024**2
"""Of one line, from its beginning; an application that logs JSON may put 150 KB into one."""
READ_SECONDS = 10
WHOLE_LOG_SECONDS = 3
"""For a whole log of which only the end was asked for."""
FIRST_BYTE_SECONDS = 15
"""With `since` the engine reads a log from its beginning before it sends anything."""
DRIVERS_WITHOUT_LOG = ("none", "passthrough", "passthrough-tty")
UNREADABLE = re.compile(r"does not support reading|cannot read logs|not logging output", re.IGNORECASE)
"""What Docker and Podman say of a log driver that only writes."""


@dataclass(frozen=True)
class LogTail:
    """The last lines, whether others were left out, where to go on reading, and what was not even looked at."""

    lines: list[str]
    truncated: bool
    next_since: str
    note: str = ""


class _TailBuffer:
    """The newest lines, within a number and a size."""

    def __init__(self, most: int) -> None:
        self.lines: deque[str] = deque()
        self.left_out = 0
        self._most, self._size = most, 0

    def add(self, line: str) -> None:
        self.lines.append(line)
        self._size += len(line)
        while len(self.lines) > self._most or self._size > MAX_TAIL_BYTES:
            self._size -= len(self.lines.popleft())
            self.left_out += 1


class _LogScan:
    """What one pass over a log finds."""

    def __init__(self, tail: int, grep: str, start: Cursor) -> None:
        self.start, self.next = start, start
        self.kept, self.read = _TailBuffer(tail), 0
        self.late = self.unsearched = self.one_moment = False
        self._wanted, self._blocks = grep.casefold(), KeyBlockRedactor()
        self._passed = 0

    def take(self, lines: Iterator[LogLine], seconds: float | None = None) -> None:
        """Read to the end, or until it takes too long."""
        deadline = time.monotonic() + (READ_SECONDS if seconds is None else seconds)
        for line in lines:
            at = to_nanoseconds(line.stamp)
            self.one_moment = not self.read or (self.one_moment and at == self.next.at)
            self.read += 1
            visible = visible_text(line, self._wanted, self._blocks)
            if at is None or self._is_new(at):
                self.next = self.next if at is None else self.next.after(at)
                if visible is not None:
                    self.kept.add(visible)
                elif line.unsearched:
                    self.unsearched = True
            if time.monotonic() > deadline:
                self.late = True
                return

    def _is_new(self, at: int) -> bool:
        if at == self.start.at and self._passed < self.start.seen:
            self._passed += 1
            return False
        return at >= self.start.at


def read_log(engine: Engine, container: Mapping[str, Any], *, tail: int, since: str, grep: str) -> LogTail:
    """The last `tail` lines since a time or duration ago that contain `grep`.

    Raises:
        Conflict: the container's log driver keeps none that the engine could read.
    """
    start = Cursor.parse(since)
    most = (MAX_SEARCHED_LINES if grep else tail) + 1 + start.seen
    reading, whole = _LogScan(tail, grep, start), engine.is_podman
    if whole:
        # Asked for the last lines, Podman 4 puts parts of long ones behind others, or leaves them out.
        seconds = READ_SECONDS if grep else WHOLE_LOG_SECONDS
        reading.take(_request_lines(engine, container, tail="all", start=start, grep=bool(grep)), seconds)
    if not whole or (reading.late and not grep):
        reading, whole = _LogScan(tail, grep, start), False
        reading.take(_request_lines(engine, container, tail=most, start=start, grep=bool(grep)))
    cut = not whole and reading.read >= most
    if cut and reading.one_moment and reading.next.at > start.at:
        # All that was read has one stamp, and more lines before may have it too: only the whole moment can be counted.
        reading = _LogScan(tail, grep, Cursor(reading.next.at))
        reading.take(_request_lines(engine, container, tail="all", start=reading.start, grep=bool(grep)))
    note = ""
    if reading.late:
        note = f"the engine is slow: lines after {reading.next.stamp} were not read; ask again with `since`"
    elif grep and cut:
        note = f"only the last {MAX_SEARCHED_LINES:,} lines were searched; `since` searches a part of the log"
    elif reading.unsearched:
        note = f"of longer lines only the first {text.format_size(MAX_SEARCHED_LINE_BYTES)} were searched"
    return LogTail(
        lines=list(reading.kept.lines),
        truncated=reading.kept.left_out > 0 or bool(note),
        next_since=str(reading.next),
        note=note,
    )


def _request_lines(
    engine: Engine, container: Mapping[str, Any], *, tail: int | str, start: Cursor, grep: bool
) -> Iterator[LogLine]:
    """Lines up to now by the engine's clock: a container that never stops writing must not keep us."""
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
    """What the engine cannot do because of the container's log driver is said with its name."""
    driver = text.clean(str(container["HostConfig"]["LogConfig"].get("Type") or ""))
    name = text.clean(str(container["Name"])).lstrip("/")
    try:
        yield
    except (EngineError, Conflict, InvalidInput) as error:
        if not driver or not UNREADABLE.search(error.message):
            raise
        if driver in DRIVERS_WITHOUT_LOG:
            raise Conflict(
                f"`{name}` keeps no log: its log driver is `{driver}`",
                hint="create it again with another log driver, like `local`, to see what it writes",
            ) from error
        raise Conflict(
            f"the log of `{name}` cannot be read here: its log driver `{driver}` sends it elsewhere",
            hint=f"look where `{driver}` sends it, or create the container again with the log driver `local`",
        ) from error


def _open(engine: Engine, container: str, options: Mapping[str, Any]) -> requests.Response:
    """The raw answer: the SDK reads a terminal's log byte by byte, and takes its own time limit away."""
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
    """A moment just after that of the answer; lines that are younger were written while we read."""
    try:
        return (int(parsedate_to_datetime(date).timestamp()) + 2) * SECOND - 1
    except ValueError:
        return 2**63
