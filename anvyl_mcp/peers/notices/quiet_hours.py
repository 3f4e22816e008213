"""Times of the day in which only urgent notices are sent, in the time zone of this machine."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from anvyl_mcp.core.errors import InvalidInput

SPAN = re.compile(r"(\d{1,2})(?:[:.](\d{2}))?\s*(?:-|–|to)\s*(\d{1,2})(?:[:.](\d{2}))?")
DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Spans of minutes of the day; one that ends before it begins goes past midnight."""

    spans: tuple[tuple[int, int], ...] = ()

    def covers(self, at: float) -> bool:
        """Whether a moment (Unix time) is in them, by the clock on the wall: changes of summer time do not matter."""
        clock = time.localtime(at)
        minute = clock.tm_hour * 60 + clock.tm_min
        return any(
            start <= minute < end if start < end else minute >= start or minute < end for start, end in self.spans
        )


def parse_quiet_hours(text: str) -> QuietHours:
    """Parse `22:00-07:00`, or several spans separated by commas.

    Raises:
        InvalidInput: a span cannot be read.
    """
    spans = []
    for part in filter(None, (one.strip() for one in text.split(","))):
        match = SPAN.fullmatch(part)
        hours = [int(match[1]), int(match[3])] if match else [DAY]
        minutes = [int(match[2] or 0), int(match[4] or 0)] if match else [0]
        times = [hour * 60 + minute for hour, minute in zip(hours, minutes, strict=True)]
        if match is None or max(times) > DAY or max(minutes) > 59 or times[0] == times[1]:
            raise InvalidInput(f"`{part}` are not quiet hours", hint="write them like 22:00-07:00")
        spans.append((times[0] % DAY, times[1]))
    return QuietHours(tuple(spans))
