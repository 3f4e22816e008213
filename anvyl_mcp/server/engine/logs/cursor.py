"""Position in a log: a timestamp, and how many lines with exactly that timestamp were already read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.server.engine.timestamps import SECOND, STAMP, to_nanoseconds

FRACTION_DIGITS = 9
"""Digits of a nanosecond."""
COUNT_DIGITS = 6
"""Digits after those, which count lines: Podman's timestamps are whole seconds, so many lines share one."""
BEGINNING = -(2**63)


@dataclass(frozen=True, slots=True)
class Cursor:
    """All lines from `at` on (nanoseconds since 1970), except the first `seen` with exactly that timestamp."""

    at: int = BEGINNING
    seen: int = 0

    @classmethod
    def parse(cls, since: str) -> Cursor:
        """Parse a duration, a time, or the `next_since` of an earlier answer; the whole log if empty.

        Raises:
            InvalidInput: it is none of these.
        """
        if not since:
            return cls()
        seconds = text.parse_duration(since)
        if seconds is not None:
            return cls(_nanoseconds(since, int(datetime.now(UTC).timestamp()) - seconds))
        at = _parse_time(since.strip())
        if at is None:
            raise InvalidInput(f"`{since}` is not a time", hint="write it like 10m, 2h or 2026-11-23T10:00:00Z")
        match = STAMP.fullmatch(since.strip())
        fraction = (match[3] or "") if match else ""
        # Nine digits are the timestamp of one line that was read; more digits count several such lines.
        seen = (
            int(fraction[FRACTION_DIGITS:])
            if len(fraction) == FRACTION_DIGITS + COUNT_DIGITS
            else int(len(fraction) == FRACTION_DIGITS)
        )
        return cls(_nanoseconds(since, at // SECOND) + at % SECOND, seen)

    def after(self, at: int) -> Cursor:
        """The cursor after one more line with timestamp `at`."""
        return Cursor(at, 1) if at > self.at else Cursor(at, self.seen + 1) if at == self.at else self

    @property
    def second(self) -> int:
        """The timestamp in whole seconds, for the engine's `since` parameter."""
        return self.at // SECOND

    @property
    def stamp(self) -> str:
        """The timestamp without the count of lines."""
        if self.at == BEGINNING:
            return ""
        return f"{datetime.fromtimestamp(self.second, UTC):%Y-%m-%dT%H:%M:%S}.{self.at % SECOND:0{FRACTION_DIGITS}d}Z"

    def __str__(self) -> str:
        """An ISO 8601 time that `parse` reads back."""
        count = "" if self.seen == 1 else f"{min(self.seen, 10**COUNT_DIGITS - 1):0{COUNT_DIGITS}d}"
        return self.stamp and f"{self.stamp[:-1]}{count}Z"


def _parse_time(time: str) -> int | None:
    """Nanoseconds of an engine's timestamp, or of a time typed by a person, like `2026-11-23`."""
    if STAMP.fullmatch(time):
        return to_nanoseconds(time)
    try:
        found = datetime.fromisoformat(time)
    except ValueError:
        return None
    return to_nanoseconds((found if found.tzinfo else found.replace(tzinfo=UTC)).isoformat())


def _nanoseconds(since: str, second: int) -> int:
    """Nanoseconds since 1970, checked to be a possible date."""
    if not text.EARLIEST_DATE - 2 * 10**9 < second < text.LATEST_DATE:
        raise InvalidInput(f"`{since}` is out of range", hint="omit `since` to see the whole log")
    return second * SECOND
