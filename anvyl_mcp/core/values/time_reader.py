"""The grammar of time phrases: recursive descent over words. `time_phrases` is the interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import NoReturn

from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.core.values import time_words
from anvyl_mcp.core.values.local_calendar import AROUND_HOUR, AROUND_MINUTE, EARLIEST, PARTS, LocalCalendar, Period
from anvyl_mcp.core.values.time_words import MERIDIEMS, NUMBERS, UNITS, VAGUE, WEEKDAYS, Clock, Token

TO = ("and", "to", "until", "till", "-")
LONG = ("w", "month", "year")
"""Units of calendar periods: `last week` is one of the calendar, `the last week` the past seven days."""
CLOCK_WORDS = {"noon": 12, "midnight": 0}

Found = tuple[Period, int] | None
"""What was parsed, and the number of the word after it."""
FoundClock = tuple[Clock, int] | None


class TimeReader:
    """Parses phrases in a list of words."""

    def __init__(self, tokens: Sequence[Token], now: datetime, zone: tzinfo) -> None:
        self._words = [token.word for token in tokens]
        self._calendar = LocalCalendar(now, zone)
        self.now = self._calendar.now
        self._today = self._calendar.today
        self.remark = ""
        """How a word was taken that may stand for two times."""

    def phrase(self, at: int) -> Found:
        """Parse the phrase that begins at a word; None if none does.

        Raises:
            InvalidInput: a phrase begins there, but it is ambiguous, in the future or not exact.
        """
        word = self._word(at)
        if time_words.AWAY.match(" ".join(self._words[at : at + 5])):
            raise InvalidInput("when you were away is not known", hint="say since when, like `since 9 am`")
        self._check_not_future(at)
        if word == "since":
            return self._since(at)
        if word in ("from", "between"):
            return self._range(at + 1) or (self._period(at + 1) if word == "from" else None)
        if word in ("after", "before", "until", "till"):
            return self._bounded(at)
        return self._period(at)

    def duration(self, at: int) -> tuple[datetime, int, str] | None:
        """Parse an amount of time; return the moment that long ago, the number of the next word, and the last unit."""
        found = self._amount(at)
        if found is None:
            return None
        moment, after, unit = self._calendar.ago(*found[:2]), found[2], found[1]
        while more := self._amount(after + 1 if self._word(after) == "and" else after):
            moment, after, unit = self._calendar.ago(more[0], more[1], moment), more[2], more[1]
        return moment, after, unit

    def _word(self, at: int) -> str:
        return self._words[at] if 0 <= at < len(self._words) else ""

    def _since(self, at: int) -> Found:
        begin = self._period(at + 1) or self._at_time(at + 1, bare=True)
        if begin is None and (length := self.duration(at + 1)) and not self._word(length[1]):
            begin = Period(length[0], self.now, length[0]), length[1]
        if begin is None:
            return None
        period, after = begin
        if self._word(after) in TO[1:] and (end := self._period(after + 1)):
            return Period(period.since, end[0].until), end[1]
        return Period(period.since, max(self.now, period.since)), after

    def _bounded(self, at: int) -> Found:
        """`after 3 pm`, `before Monday`."""
        found = self._period(at + 1) or self._at_time(at + 1, bare=True)
        if found is None:
            return None
        period, after = found
        if self._word(at) == "after":
            return Period(period.until, max(self.now, period.until)), after
        return Period(EARLIEST, period.since if self._word(at) == "before" else period.until), after

    def _range(self, at: int) -> Found:
        """`3 am to 5 am yesterday`, `Monday and Wednesday`."""
        if hours := self._clock_range(at):
            return hours
        begin = self._period(at)
        end = self._period(begin[1] + 1) if begin and self._word(begin[1]) in TO else None
        if begin is None or end is None:
            return None
        if end[0].until <= begin[0].since:
            self._refuse(at, end[1], "ends before it begins")
        return Period(begin[0].since, end[0].until), end[1]

    def _clock_range(self, at: int, on: date | None = None) -> Found:
        """`3 to 5 am`, on the given day, the day written after it, or else the last one."""
        begin = self._clock(at)
        end = self._clock(begin[1] + 1) if begin and self._word(begin[1]) in TO else None
        if begin is None or end is None:
            return None
        (first, _), (second, after) = begin, end
        if first.meridiem == "?" and second.meridiem in ("am", "pm"):
            first = Clock(first.hour, first.minute, second.meridiem)
        if on is None and (day := self._day(after)):
            on, after = day
        if len(first.hours()) > 1 or len(second.hours()) > 1:
            self._refuse(at, after, "may be am or pm")
        start, stop = time(first.hours()[0], first.minute), time(second.hours()[0], second.minute)
        if on is None:
            on = self._today if start <= self._calendar.clock else self._today - timedelta(days=1)
        until = on if stop > start else on + timedelta(days=1)
        to_utc = self._calendar.to_utc
        return Period(to_utc(datetime.combine(on, start)), to_utc(datetime.combine(until, stop), fold=1)), after

    def _period(self, at: int) -> Found:
        """A period or a moment, with prepositions before it."""
        rules: Sequence[Callable[[int], Found]] = (
            self._recent,
            self._ago,
            self._on_day,
            self._calendar_period,
            self._at_time,
        )
        for rule in rules:
            if found := rule(at):
                return found
        return None

    def _recent(self, at: int) -> Found:
        """`in the last 2 hours`, `past week`, `last 24h`."""
        begin = at
        while self._word(at) in ("in", "within", "over", "during", "for", "the"):
            at += 1
        if self._word(at) not in ("last", "past"):
            return None
        if length := self.duration(at + 1):
            return Period(length[0], self.now), length[1]
        rolling = at > begin or self._word(at) == "past"
        unit = UNITS.get(self._word(at + 1), "")
        if not unit or (unit in LONG and not rolling):
            self._check_not_vague(at + 1)
            return None
        return Period(self._calendar.ago(1, unit), self.now), at + 2

    def _ago(self, at: int) -> Found:
        """`2 hours ago` and the time around it, `3 days ago` as that day."""
        if self._word(at) in ("about", "around"):
            at += 1
        self._check_not_vague(at)
        length = self.duration(at)
        if length is None or self._word(length[1]) not in ("ago", "earlier"):
            return None
        moment, after, unit = length[0], length[1] + 1, length[2]
        on = self._calendar.to_local(moment).date()
        if unit in ("month", "year"):
            around = self._calendar.day(on - timedelta(days=7), on + timedelta(days=7))
            return Period(around.start, around.end, moment), after
        if unit in ("d", "w"):
            if clock := self._at_clock(after):
                return self._calendar.moment(clock[0], on), clock[1]
            around = self._calendar.day(on)
            return Period(around.start, around.end, moment), after
        margin = AROUND_HOUR if unit == "h" else AROUND_MINUTE
        return Period(moment - margin, moment + margin, moment), after

    def _on_day(self, at: int) -> Found:
        """`yesterday`, `Monday evening`, `yesterday at 3 am`, `2026-11-23 10:00`, `last night at 3`."""
        if self._word(at) == "earlier":
            at += 1
        if stamp := self._timestamp(at):
            return stamp
        found = self._night(at)
        if found is None:
            day = self._day(at)
            if day is None:
                return None
            part = self._word(day[1]) if self._word(day[1]) in PARTS else ""
            found = day[0], day[1] + bool(part), part
        on, after, part = found
        if self._word(after) in ("from", "between") and (hours := self._clock_range(after + 1, on)):
            return hours
        if clock := self._at_clock(after) or self._bare_clock(after):
            return self._calendar.moment(clock[0], on, part), clock[1]
        return self._calendar.part_of_day(on, part) if part else self._calendar.day(on), after

    def _night(self, at: int) -> tuple[date, int, str] | None:
        """`last night`, `overnight`, `this morning`, `tonight`: the day, the number of the next word, and the part."""
        words = self._word(at), self._word(at + 1)
        yesterday = self._today - timedelta(days=1)
        if words in (("last", "night"), ("last", "evening")):
            return yesterday, at + 2, words[1]
        if words[0] == "overnight":
            return yesterday, at + 1, "night"
        if words[0] == "this" and words[1] in ("morning", "afternoon", "evening"):
            return self._today, at + 2, words[1]
        if words[0] == "tonight":
            return (yesterday if self._calendar.clock.hour < 6 else self._today), at + 1, "night"
        return None

    def _day(self, at: int) -> tuple[date, int] | None:
        """A calendar day, and the number of the next word."""
        while self._word(at) in ("on", "the"):
            at += 1
        word = self._word(at)
        if word in ("today", "yesterday"):
            return self._today - timedelta(days=word == "yesterday"), at + 1
        if self._words[at : at + 3] == ["day", "before", "yesterday"]:
            return self._today - timedelta(days=2), at + 3
        if match := time_words.ISO_DAY.fullmatch(word):
            return self._date(at, at + 1, int(match[1]), int(match[2]), int(match[3])), at + 1
        return self._weekday(at) or self._named_date(at)

    def _weekday(self, at: int) -> tuple[date, int] | None:
        which = self._word(at) if self._word(at) in ("last", "this", "past") else ""
        word, after = self._word(at + bool(which)), at + 1 + bool(which)
        # A container may be called `mon`, so a short form needs a word before it.
        before = ("since", "on", "from", "until", "till", "before", "after", "between")
        short = which or len(self._words) == 1 or self._word(at - 1) in before
        number = next((n for n, name in enumerate(WEEKDAYS) if word == name or (short and word == name[:3])), None)
        if number is None:
            return None
        back = (self._today.weekday() - number) % 7
        if back == 0 and which == "this":
            return self._today, after
        day = self._today - timedelta(days=back or 7)
        if back == 0 and not which:
            # The longer time: what it shows has that of today in it.
            self.remark = (
                f"`{word}` taken as {WEEKDAYS[number].title()} a week ago ({day.day} {day:%B}); for today say `today`"
            )
        return day, after

    def _named_date(self, at: int) -> tuple[date, int] | None:
        """`Nov 23`, `23rd of November 2026`: without a year, the last one."""
        first, second, after = self._word(at), self._word(at + 1), at + 2
        if second == "of":
            second, after = self._word(at + 2), at + 3
        for month, day in ((first, second), (second, first)):
            number, match = time_words.month_number(month), time_words.ORDINAL.fullmatch(day)
            if number and match:
                if time_words.YEAR.fullmatch(self._word(after)):
                    return self._date(at, after + 1, int(self._word(after)), number, int(match[1])), after + 1
                this_year = (number, int(match[1])) <= (self._today.month, self._today.day)
                return self._date(at, after, self._today.year - (not this_year), number, int(match[1])), after
        return None

    def _timestamp(self, at: int) -> Found:
        """ISO 8601 in one word, `2026-11-23T10:00:00Z`, or seconds since 1970."""
        word = self._word(at)
        if time_words.UNIX_TIME.fullmatch(word):
            moment = datetime.fromtimestamp(float(word), UTC)
        elif time_words.ISO_TIME.fullmatch(word):
            try:
                moment = datetime.fromisoformat(word.upper())
                moment = moment.astimezone(UTC) if moment.tzinfo else self._calendar.to_utc(moment)
            except (ValueError, OverflowError):
                self._refuse(at, at + 1, "is not a valid time")
        else:
            return None
        if moment > self.now:
            return Period(moment, moment, moment), at + 1
        return Period(moment - AROUND_MINUTE, moment + AROUND_MINUTE, moment), at + 1

    def _calendar_period(self, at: int) -> Found:
        """`this week`, `last month`, `the weekend`."""
        begin = at
        while self._word(at) in ("on", "over", "at", "during", "the", "in", "earlier"):
            at += 1
        which = self._word(at) if self._word(at) in ("this", "last") else ""
        unit, after = self._word(at + bool(which)), at + 1 + bool(which)
        monday = self._today - timedelta(days=self._today.weekday())
        if unit == "weekend" and (which or at > begin):
            saturday = monday + timedelta(days=5)
            current = saturday <= self._today and which != "last"
            if which == "this" and not current:
                self._refuse(begin, after, "has not begun")
            start = saturday if current else saturday - timedelta(days=7)
            return self._calendar.day(start, start + timedelta(days=1)), after
        if not which or unit not in ("week", "month", "year"):
            return None
        first = {"week": monday, "month": self._today.replace(day=1), "year": self._today.replace(month=1, day=1)}
        if which == "this":
            return self._calendar.day(first[unit], self._today), after
        last = first[unit] - timedelta(days=1)
        first = {"week": last - timedelta(days=6), "month": last.replace(day=1), "year": last.replace(month=1, day=1)}
        return self._calendar.day(first[unit], last), after

    def _at_time(self, at: int, *, bare: bool = False) -> Found:
        """`at 3 am`, `3 am yesterday`, `at noon on Monday`. `bare`: any number is a time of day, as after `since`."""
        found = self._at_clock(at) or (self._clock(at) if bare else self._bare_clock(at))
        if found is None:
            return None
        clock, after = found
        if night := self._night(after):
            return self._calendar.moment(clock, night[0], night[2]), night[1]
        if self._words[after : after + 2] == ["in", "the"] and self._word(after + 2) in PARTS:
            begin, end = PARTS[self._word(after + 2)]
            fitting = [hour for hour in clock.hours() if begin <= hour < end]
            clock, after = Clock(fitting[0], clock.minute) if len(fitting) == 1 else clock, after + 3
        if day := self._day(after):
            return self._calendar.moment(clock, day[0]), day[1]
        passed = time(clock.hours()[0], clock.minute) <= self._calendar.clock
        return self._calendar.moment(clock, self._today if passed else self._today - timedelta(days=1)), after

    def _at_clock(self, at: int) -> FoundClock:
        return self._clock(at + 1) if self._word(at) in ("at", "around", "about") else None

    def _bare_clock(self, at: int) -> FoundClock:
        """A time of day that needs no `at` to be one: `3 am`, `15:00`, `noon`."""
        found = self._clock(at)
        sure = self._word(at) in CLOCK_WORDS or ":" in self._word(at)
        return found if found and (sure or found[0].meridiem in ("am", "pm")) else None

    def _clock(self, at: int) -> FoundClock:
        word, after = self._word(at), at + 1
        if word in CLOCK_WORDS:
            return Clock(CLOCK_WORDS[word], 0), after
        match = time_words.CLOCK.fullmatch(word)
        if not match:
            return None
        hour, minute = int(match[1]), int(match[2] or 0)
        meridiem = MERIDIEMS.get(match[4] or self._word(after), "")
        after += bool(meridiem and not match[4])
        if not meridiem and not match[2]:
            spoken = self._word(after) in ("o'clock", "oclock", "o’clock")
            after += spoken
            if not spoken and (hour > 24 or self._word(after) in ("%", "percent", *UNITS)):
                return None  # `at 90 %` is not a time of day
            meridiem = "?" if 1 <= hour <= 12 else ""
        if minute > 59 or not (1 <= hour <= 12 if meridiem else hour < 24):
            self._refuse(at, after, "is not a time of day")
        return Clock(hour, minute, meridiem), after

    def _amount(self, at: int) -> tuple[float, str, int] | None:
        """`2 hours`, `an hour`, `half an hour`, `2h`: the number, the unit and the number of the next word."""
        word = self._word(at)
        if word == "half" and self._word(at + 1) in ("a", "an") and self._word(at + 2) in UNITS:
            return 0.5, UNITS[self._word(at + 2)], at + 3
        if time_words.COMPACT.fullmatch(word):
            return _compact(word, at + 1)
        count: float | None = NUMBERS.get(word)
        if word == "couple" or (word == "a" and self._word(at + 1) == "couple"):
            at += word == "a"
            count, at = 2, at + (self._word(at + 1) == "of")
        elif word.replace(".", "", 1).isdecimal() and len(word) <= 6:
            count = float(word)
        unit = UNITS.get(self._word(at + 1))
        return (count, unit, at + 2) if count is not None and unit else None

    def _date(self, at: int, after: int, year: int, month: int, day: int) -> date:
        try:
            return date(year, month, day)
        except ValueError:
            self._refuse(at, after, "is not a day of the calendar")

    def _check_not_future(self, at: int) -> None:
        word, after = self._word(at), self._word(at + 1)
        calendar = after in (*UNITS, *WEEKDAYS, *PARTS, "weekend") or bool(self._amount(at + 1))
        if word == "tomorrow" or (word == "next" and calendar) or (word == "in" and self._amount(at + 1)):
            self._refuse(at, at + 2, "is in the future")
        if word in ("every", "each") and calendar:
            self._refuse(at, at + 2, "is not one time")

    def _check_not_vague(self, at: int) -> None:
        at += self._word(at) == "a"
        unit = self._word(at + 1)
        if self._word(at) in VAGUE and unit in UNITS:
            raise InvalidInput(f"`{self._word(at)} {unit}` is not exact", hint=f"say a number, like `3 {unit}`")

    def _refuse(self, at: int, after: int, why: str) -> NoReturn:
        words = " ".join(self._words[at:after])
        raise InvalidInput(f"`{words}` {why}", hint="say it like `3 am`, `15:00`, `yesterday` or `last Monday`")


def _compact(word: str, after: int) -> tuple[float, str, int]:
    """`2d` keeps its unit; `1h30m` is in seconds."""
    scale = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800}
    if word[:-1].isdecimal():
        return int(word[:-1]), word[-1], after
    seconds, digits = 0, ""
    for one in word:
        if one in scale:
            seconds, digits = seconds + int(digits) * scale[one], ""
        else:
            digits += one
    return seconds, "s", after
