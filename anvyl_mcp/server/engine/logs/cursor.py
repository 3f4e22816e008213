"""Where reading a log goes on: a moment, and how many of the lines written in that moment were read before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.server.engine.timestamps import SECOND, STAMP, to_nanoseconds

FRACTION_DIGITS = 9
"""Digits of a nanosecond."""
COUNT_DIGITS = 6
"""Digits after those, which count lines: Podman stamps by the second, so that many lines have the same stamp."""
BEGINNING = -(2**63)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Lines from `at` on, in nanoseconds since 1970, without the first `seen` of exactly then."""

    at: int = BEGINNING
    seen: int = 0

    @classmethod
    def parse(cls, since: str) -> Cursor:
        """From a duration ago, a time, or what an earlier answer said to go on with; all lines when empty.

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
            raise InvalidInput(f"`{since}` is no time", hint="write it like 10m, 2h or 2026-11-23T10:00:00Z")
        match = STAMP.fullmatch(since.strip())
        fraction = (match[3] or "") if match else ""
        # A whole stamp is the stamp of a line that was read; with the digits after it, of several lines.
        seen = (
            int(fraction[FRACTION_DIGITS:])
            if len(fraction) == FRACTION_DIGITS + COUNT_DIGITS
            else int(len(fraction) == FRACTION_DIGITS)
        )
        return cls(_nanoseconds(since, at // SECOND) + at % SECOND, seen)

    def after(self, at: int) -> Cursor:
        """The cursor behind one more line, stamped `at`."""
        return Cursor(at, 1) if at > self.at else Cursor(at, self.seen + 1) if at == self.at else self

    @property
    def second(self) -> int:
        """The whole second to ask an engine from."""
        return self.at // SECOND

    @property
    def stamp(self) -> str:
        """The moment alone."""
        if self.at == BEGINNING:
            return ""
        return f"{datetime.fromtimestamp(self.second, UTC):%Y-%m-%dT%H:%M:%S}.{self.at % SECOND:0{FRACTION_DIGITS}d}Z"

    def __str__(self) -> str:
        """A time in ISO 8601 that `parse` reads back."""
        count = "" if self.seen == 1 else f"{min(self.seen, 10**COUNT_DIGITS - 1):0{COUNT_DIGITS}d}"
        return self.stamp and f"{self.stamp[:-1]}{count}Z"


def _parse_time(time: str) -> int | None:
    """The moment of an engine's stamp, or of a time as a person writes it, like `2026-11-23`."""
    if STAMP.fullmatch(time):
        return to_nanoseconds(time)
    try:
        found = datetime.fromisoformat(time)
    except ValueError:
        return None
    return to_nanoseconds((found if found.tzinfo else found.replace(tzinfo=UTC)).isoformat())


def _nanoseconds(since: str, second: int) -> int:
    """Nanoseconds of a second that a date can be made of."""
    if not text.EARLIEST_DATE - 2 * 10**9 < second < text.LATEST_DATE:
        raise InvalidInput(f"`{since}` is too far away", hint="leave `since` out to see all")
    return second * SECOND
