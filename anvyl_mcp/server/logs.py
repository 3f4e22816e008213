"""The end of a container's log, read in bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from anvyl_mcp import text
from anvyl_mcp.errors import InvalidInput
from anvyl_mcp.server.engine import Engine
from anvyl_mcp.server.translate import engine_errors

MOST_BYTES = 96 * 1024
LONGEST_LINE = 4096
SEARCHED = 20_000
"""Lines that `grep` looks through, from the end."""
READING_SECONDS = 8


@dataclass(frozen=True)
class LogEnd:
    """The last lines, whether earlier ones were left out, and where to go on reading."""

    lines: list[str]
    truncated: bool
    next_since: str


def read(engine: Engine, container: Mapping[str, Any], *, tail: int, since: str, grep: str) -> LogEnd:
    """The last `tail` lines since a time or duration ago that contain `grep`."""
    start = _start(since)
    kept: deque[str] = deque(maxlen=tail)
    size, matching, last = 0, 0, ""
    for stamp, line in _stamped(engine, container["Id"], tail=SEARCHED if grep else tail + 1, start=start):
        if stamp <= start:
            continue
        last = max(last, stamp)
        if grep and grep.lower() not in line.lower():
            continue
        matching += 1
        if len(kept) == tail:
            size -= len(kept[0])
        kept.append(line)
        size += len(line)
        while size > MOST_BYTES:
            size -= len(kept.popleft())
    return LogEnd(lines=list(kept), truncated=matching > len(kept), next_since=last or start)


def _stamped(engine: Engine, container: str, *, tail: int, start: str) -> Iterator[tuple[str, str]]:
    """Lines with their times. A container that never stops writing must not keep us: reading ends after a while."""
    deadline = time.monotonic() + READING_SECONDS
    since = datetime.fromisoformat(start[:19]).replace(tzinfo=UTC) if start else None
    with engine_errors():
        stream = engine.client().logs(container, stream=True, follow=False, timestamps=True, tail=tail, since=since)
    rest = b""
    with engine_errors(), closing(stream):
        for chunk in stream:
            *lines, rest = (rest + chunk).split(b"\n")
            yield from map(_parse, filter(None, lines))
            rest = rest[: LONGEST_LINE * 4]
            if time.monotonic() > deadline:
                return
    if rest:
        yield _parse(rest)


def _parse(raw: bytes) -> tuple[str, str]:
    stamp, _, line = raw.decode("utf-8", "replace").partition(" ")
    line = text.clean(line.rstrip("\r"))
    if len(line) > LONGEST_LINE:
        line = f"{line[:LONGEST_LINE]}… {len(line) - LONGEST_LINE} more characters"
    return stamp, line


def _start(since: str) -> str:
    """The time after which lines count, in the engine's own spelling; empty for all."""
    if not since:
        return ""
    seconds = text.parse_duration(since)
    if seconds is not None:
        return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.000000000Z")
    try:
        moment = datetime.fromisoformat(since)
    except ValueError as error:
        raise InvalidInput(f"`{since}` is no time", hint="write it like 10m, 2h or 2026-11-23T10:00:00Z") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if since.endswith("Z") and len(since) > 20:
        return since
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000000000Z")
