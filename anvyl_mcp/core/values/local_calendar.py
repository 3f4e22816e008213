"""Days and times of day in a time zone, as periods in UTC, also across a change of summer time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.core.values.time_words import Clock

PARTS = {"morning": (0, 12), "afternoon": (12, 18), "evening": (18, 24), "night": (18, 30)}
"""Hours of the parts of a day. A night lasts until 6 am of the next day."""
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
AROUND_HOUR, AROUND_MINUTE = timedelta(minutes=30), timedelta(minutes=10)
"""What belongs to `at 3 am` and to `at 3:12 am`: this much before and after."""
SECONDS = {"s": 1, "m": 60, "h": 3600}
DAYS = {"d": 1, "w": 7, "month": 30, "year": 365}


@dataclass(frozen=True, slots=True)
class Period:
    """A period in UTC. `moment`: the exact time that it surrounds, if any."""

    start: datetime
    end: datetime
    moment: datetime | None = None

    @property
    def since(self) -> datetime:
        """The moment, or else the start."""
        return self.moment or self.start

    @property
    def until(self) -> datetime:
        """The moment, or else the end."""
        return self.moment or self.end


class LocalCalendar:
    """The calendar of a time zone at a moment."""

    def __init__(self, now: datetime, zone: tzinfo) -> None:
        self.now = now.astimezone(UTC)
        self._zone = zone
        self.clock = self.to_local(self.now).time()
        self.today = self.to_local(self.now).date()

    def day(self, first: date, last: date | None = None) -> Period:
        """A day, or several, from midnight to midnight."""
        end = (last or first) + timedelta(days=1)
        return Period(self.to_utc(datetime.combine(first, time())), self.to_utc(datetime.combine(end, time())))

    def part_of_day(self, on: date, part: str) -> Period:
        """The morning, afternoon, evening or night of a day."""
        begin, end = PARTS[part]
        midnight = datetime.combine(on, time())
        return Period(
            self.to_utc(midnight + timedelta(hours=begin)), self.to_utc(midnight + timedelta(hours=end), fold=1)
        )

    def moment(self, clock: Clock, on: date, part: str = "") -> Period:
        """A time of day, with the minutes around it. A part of the day decides between am and pm.

        Raises:
            InvalidInput: it may be am or pm, is not in that part of the day, or was skipped by a change of summer time.
        """
        hours = clock.hours()
        if part:
            begin, end = PARTS[part]
            # The hours of a night after midnight belong to the next day.
            hours = [hour for one in hours for hour in (one, one + 24) if begin <= hour < end]
        if not hours:
            raise InvalidInput(f"{clock.hours()[0]}:{clock.minute:02} is not in the {part}")
        if len(hours) > 1:
            raise InvalidInput(f"`{clock.hour}` may be {clock.hour} am or {clock.hour} pm", hint="say which")
        wall = datetime.combine(on + timedelta(days=hours[0] // 24), time(hours[0] % 24, clock.minute))
        first, last = self.to_utc(wall), self.to_utc(wall, fold=1)
        if self.to_local(first) != wall:
            raise InvalidInput(f"there was no {wall:%H:%M} on {wall:%Y-%m-%d}: the clocks went forward")
        if first > self.now:
            return Period(first, first, first)
        margin = AROUND_MINUTE if clock.minute else AROUND_HOUR
        return Period(first - margin, last + margin, first)

    def ago(self, count: float, unit: str, base: datetime | None = None) -> datetime:
        """That much before now or `base`. Days and longer keep the time of day.

        Raises:
            InvalidInput: that is before the year 1.
        """
        base = base or self.now
        try:
            if unit in SECONDS:
                return base - timedelta(seconds=count * SECONDS[unit])
            return self.to_utc(self.to_local(base) - timedelta(days=count * DAYS[unit]))
        except OverflowError as error:
            raise InvalidInput("that is before the year 1", hint="use a shorter time") from error

    def to_local(self, moment: datetime) -> datetime:
        """The local time of a moment, without its zone."""
        return moment.astimezone(self._zone).replace(tzinfo=None)

    def to_utc(self, wall: datetime, *, fold: int = 0) -> datetime:
        """A local time in UTC; `fold=1`: the second one, where clocks go back."""
        return wall.replace(tzinfo=self._zone, fold=fold).astimezone(UTC)
