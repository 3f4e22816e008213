"""Parse English phrases about the past into intervals: `yesterday`, `last night`, `since Monday`, `at 3 am`, `2h ago`.

A phrase that looks like a time but cannot be placed, like `at 3`, `a few hours ago` or `tomorrow`, is refused. Calendar
words follow the given time zone, also across a change of summer time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.core.values.time_reader import TimeReader
from anvyl_mcp.core.values.time_words import tokens_of

EXAMPLES = "use `2h`, `yesterday`, `last night`, `since Monday`, `at 3 am` or `2026-11-23 10:00`"


@dataclass(frozen=True, slots=True)
class Interval:
    """A part of the past, in UTC. `moment` is set if the phrase names one moment; the interval then surrounds it."""

    start: datetime
    end: datetime
    """Exclusive, and not later than now."""
    moment: datetime | None = None
    words: str = ""
    """The phrase as written."""
    span: tuple[int, int] = (0, 0)
    """Position of the phrase in the sentence."""
    remark: str = ""
    """How a word was taken that may stand for two times."""

    @property
    def since(self) -> datetime:
        """The moment, or else the start: what `since PHRASE` means."""
        return self.moment or self.start


def read_interval(sentence: str, now: datetime, zone: tzinfo) -> Interval | None:
    """Find the first time phrase in a sentence; None if it has none.

    Raises:
        InvalidInput: there is a time phrase that is ambiguous, in the future or not exact.
    """
    tokens = tokens_of(sentence)
    reader = TimeReader(tokens, now, zone)
    for first in range(len(tokens)):
        if found := reader.phrase(first):
            period, after = found
            span = tokens[first].start, tokens[after - 1].end
            words = sentence[span[0] : span[1]]
            if period.start > reader.now:
                raise InvalidInput(f"`{words}` is in the future", hint="ask about the past, like `today` or `last 2h`")
            return Interval(period.start, min(period.end, reader.now), period.moment, words, span, reader.remark)
    return None


def parse_interval(words: str, now: datetime, zone: tzinfo) -> Interval:
    """Parse a whole argument as an interval. A bare duration, like `2h`, means the time until now.

    Raises:
        InvalidInput: it is not a time, or ambiguous, in the future or not exact.
    """
    tokens = tokens_of(words)
    reader = TimeReader(tokens, now, zone)
    if (length := reader.duration(0)) and length[1] == len(tokens):
        return Interval(length[0], reader.now, length[0], words.strip(), (0, len(words)))
    found = read_interval(words, now, zone)
    if found is None or tokens_of(words[: found.span[0]] + words[found.span[1] :]):
        raise InvalidInput(f"`{words.strip()[:60]}` is not a time that can be read", hint=EXAMPLES)
    return replace(found, words=words.strip())


def is_duration(words: str) -> bool:
    """Whether an argument is a bare duration, like `2h`, which needs no time zone and no agreed clock."""
    tokens = tokens_of(words)
    found = TimeReader(tokens, datetime.now(UTC), UTC).duration(0)
    return found is not None and found[1] == len(tokens)


def parse_since(words: str, now: datetime, zone: tzinfo) -> datetime:
    """Parse a `since` argument, like `2h`, `yesterday` or `Monday`, to the moment at which it begins.

    Raises:
        InvalidInput: it is not a time, or ambiguous, in the future or not exact.
    """
    return parse_interval(words, now, zone).since


def parse_until(words: str, now: datetime, zone: tzinfo) -> datetime:
    """Parse an `until` argument to the moment at which it ends: `yesterday` includes that day.

    Raises:
        InvalidInput: it is not a time, or ambiguous, in the future or not exact.
    """
    found = parse_interval(words, now, zone)
    return found.moment or found.end


def local_zone() -> tzinfo:
    """The time zone of this machine and user: `TZ`, the system's zone, or the present offset."""
    name = os.environ.get("TZ", "").lstrip(":")
    try:
        if name:
            return ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        return datetime.now(UTC).astimezone().tzinfo or UTC
