"""The end of a container's log, read in bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from docker.errors import APIError

from anvyl_mcp import text
from anvyl_mcp.errors import InvalidInput
from anvyl_mcp.server import redact
from anvyl_mcp.server.engine import Engine
from anvyl_mcp.server.key_blocks import KeyBlocks
from anvyl_mcp.server.log_frames import LONGEST_LINE, Line, lines_of
from anvyl_mcp.server.translate import engine_errors

MOST_BYTES = 96 * 1024
SEARCHED = 20_000
"""Lines that `grep` looks through, from the end."""
READING_SECONDS = 10
FIRST_BYTE_SECONDS = 15
"""With `since` the engine reads a log from its beginning before it sends anything."""


@dataclass(frozen=True)
class LogEnd:
    """The last lines, whether others were left out, where to go on reading, and what was not even looked at."""

    lines: list[str]
    truncated: bool
    next_since: str
    note: str = ""


class _Kept:
    """The newest lines, within a number and a size."""

    def __init__(self, most: int) -> None:
        self.lines: deque[Line] = deque()
        self.left_out = 0
        self._most, self._size = most, 0

    def add(self, line: Line) -> None:
        self.lines.append(line)
        self._size += len(line.text)
        while len(self.lines) > self._most or self._size > MOST_BYTES:
            self._size -= len(self.lines.popleft().text)
            self.left_out += 1


def read(engine: Engine, container: Mapping[str, Any], *, tail: int, since: str, grep: str) -> LogEnd:
    """The last `tail` lines since a time or duration ago that contain `grep`."""
    start = _start(since)
    kept, last, wanted, read, late = _Kept(tail), start, grep.casefold(), 0, False
    deadline, blocks = time.monotonic() + READING_SECONDS, KeyBlocks()
    for line in _read(engine, container, tail=(SEARCHED if grep else tail) + 1, start=start):
        read += 1
        shown = blocks.hide(text.clean(line.text.decode("utf-8", "replace")))
        if not line.stamp or line.stamp > start:
            last = max(last, line.stamp)
            if not wanted or _holds(shown, wanted):
                kept.add(replace(line, text=shown.encode("utf-8")))
        if late := time.monotonic() > deadline:
            break
    note = ""
    if late:
        note = f"the engine is slow: lines after {last} were not read; ask again with `since`"
    elif grep and read > SEARCHED:
        note = f"only the last {SEARCHED:,} lines were searched; `since` searches a part of the log"
    return LogEnd(
        lines=[_shown(line) for line in kept.lines],
        truncated=kept.left_out > 0 or bool(note),
        next_since=last,
        note=note,
    )


def _read(engine: Engine, container: Mapping[str, Any], *, tail: int, start: str) -> Iterator[Line]:
    """Lines up to now by the engine's clock: a container that never stops writing must not keep us."""
    options: dict[str, Any] = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": 0, "tail": tail}
    if start:
        options["since"] = int(datetime.fromisoformat(start[:19]).replace(tzinfo=UTC).timestamp())
    with engine_errors(doing="to show its log"), closing(_open(engine, str(container["Id"]), options)) as answer:
        end = _end(answer.headers.get("Date", ""))
        for line in lines_of(_chunks(answer), raw=bool(container["Config"]["Tty"])):
            yield line
            if line.stamp > end:
                return


def _open(engine: Engine, container: str, options: Mapping[str, Any]) -> requests.Response:
    """The raw answer: the SDK reads a terminal's log byte by byte, and takes its own time limit away."""
    client = engine.client(FIRST_BYTE_SECONDS)
    url = client.container_address(container, "logs")
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


def _end(date: str) -> str:
    """A stamp just after the moment of the answer; lines that are younger were written while we read."""
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return "9"
    return (moment + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%S.999999999Z")


def _holds(shown: str, wanted: str) -> bool:
    """Whether a line holds the words also where secrets are hidden: finding a line by its secret would tell it."""
    return wanted in shown.casefold() and wanted in redact.line(shown).casefold()


def _shown(line: Line) -> str:
    shown = line.text.decode("utf-8", "replace")
    beyond = line.beyond + max(0, len(shown) - LONGEST_LINE)
    return f"{shown[:LONGEST_LINE]}… {beyond} more characters" if beyond else shown


def _start(since: str) -> str:
    """The time after which lines count, in the engine's own spelling; empty for all."""
    if not since:
        return ""
    seconds = text.parse_duration(since)
    if seconds is not None:
        return _spelled(since, datetime.now(UTC), timedelta(seconds=min(seconds, 10**10)))
    try:
        moment = datetime.fromisoformat(since)
    except ValueError as error:
        raise InvalidInput(f"`{since}` is no time", hint="write it like 10m, 2h or 2026-11-23T10:00:00Z") from error
    if since.endswith("Z") and len(since) > 20:
        return since
    return _spelled(since, moment if moment.tzinfo else moment.replace(tzinfo=UTC), timedelta())


def _spelled(since: str, moment: datetime, back: timedelta) -> str:
    try:
        return (moment.astimezone(UTC) - back).strftime("%Y-%m-%dT%H:%M:%S.000000000Z")
    except OverflowError as error:
        raise InvalidInput(f"`{since}` is too far away", hint="leave `since` out to see all") from error
