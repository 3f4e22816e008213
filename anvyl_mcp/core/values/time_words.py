"""English words and notations of time phrases."""

from __future__ import annotations

import re
from dataclasses import dataclass

TOKEN = re.compile(r"[\"'(`]*([^\s,;?!\"()`]*[^\s,;?!.:\"()`'])[,;?!.:\"')`]*")
"""A word without the punctuation around it. Names with hyphens are one word, so `monday-backup` is not a day."""

MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
NUMBERS |= {"nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30}
VAGUE = ("few", "several", "some", "many")
UNITS = {
    "s": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s",
    "m": "m", "min": "m", "mins": "m", "minute": "m", "minutes": "m",
    "h": "h", "hr": "h", "hrs": "h", "hour": "h", "hours": "h",
    "d": "d", "day": "d", "days": "d", "w": "w", "week": "w", "weeks": "w",
    "month": "month", "months": "month", "year": "year", "years": "year",
}  # fmt: skip
COMPACT = re.compile(r"(?:\d{1,6}[smhdw])+")
CLOCK = re.compile(r"(\d{1,2})(?:[:.](\d\d)(?::(\d\d))?)?([ap]\.?m\.?)?")
MERIDIEMS = {"am": "am", "a.m": "am", "a.m.": "am", "pm": "pm", "p.m": "pm", "p.m.": "pm"}
ISO_DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)")
ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dt\d.*")
UNIX_TIME = re.compile(r"[1-9]\d{9}(?:\.\d+)?")
ORDINAL = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?")
YEAR = re.compile(r"20\d\d")
AWAY = re.compile(r"(?:while|when|since|as|until) (?:i|we) (?:was|were|am|are|have been|had been|went|left)\b.*")


@dataclass(frozen=True, slots=True)
class Token:
    """A word in lower case, and its position."""

    word: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day. `meridiem` is empty for the 24-hour form, and `?` if it may be either half of the day."""

    hour: int
    minute: int
    meridiem: str = ""

    def hours(self) -> list[int]:
        """The hours that it may mean, from 0 to 23."""
        if not self.meridiem:
            return [self.hour]
        low = self.hour % 12
        return {"am": [low], "pm": [low + 12], "?": [low, low + 12]}[self.meridiem]


def tokens_of(text: str) -> list[Token]:
    """Split a sentence into words."""
    return [
        Token(re.sub(r"(?<=.)['’]s$", "", match[1].lower()), match.start(1), match.end(1))
        for match in TOKEN.finditer(text)
    ]


def month_number(word: str) -> int:
    """The number of a month; 0 if it is none."""
    if word == "sept":
        return 9
    return next((number for number, name in enumerate(MONTHS, 1) if word in (name, name[:3])), 0)
