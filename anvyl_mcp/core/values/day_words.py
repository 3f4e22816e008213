"""Times as a reader says them: `03:12`, `yesterday 03:12`, `Nov 27 03:12`."""

from __future__ import annotations

from datetime import UTC, datetime

from anvyl_mcp.core.values.time_phrases import local_zone


class DayWords:
    """Formats ISO 8601 times for a reader on this machine, in its time zone. `now`: if not by its own clock."""

    def __init__(self, now: str = "") -> None:
        self._zone = local_zone()
        moment = self._read(now) or datetime.now(UTC).astimezone(self._zone)
        self._today = moment.date()
        self.zone = moment.tzname() or "UTC"

    def of(self, when: str) -> str:
        """A time in words; as it is if it is not a time."""
        moment = self._read(when)
        if moment is None:
            return when
        days = (self._today - moment.date()).days
        if days in (0, 1):
            return moment.strftime("%H:%M" if days == 0 else "yesterday %H:%M")
        return moment.strftime("%b %d %H:%M" if 0 < days < 300 else "%Y-%m-%d %H:%M")

    def at(self, when: str) -> str:
        """The same in a sentence: `at 03:12`, `yesterday at 03:12`, `on Nov 27 at 03:12`; empty if it is not a time."""
        if self._read(when) is None:
            return ""
        day, _, clock = self.of(when).rpartition(" ")
        return " ".join(filter(None, (f"on {day}" if day not in ("", "yesterday") else day, "at", clock)))

    def _read(self, when: str) -> datetime | None:
        try:
            return datetime.fromisoformat(when).astimezone(self._zone)
        except (ValueError, OverflowError, OSError):
            return None
