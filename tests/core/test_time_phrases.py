"""English phrases about the past, in two time zones, across changes of summer time."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.core.values.time_arguments import remark_on
from anvyl_mcp.core.values.time_phrases import local_zone, parse_interval, parse_since, parse_until, read_interval

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
MONDAY = datetime(2026, 10, 26, 9, 0, tzinfo=UTC)
"""10:00 in Berlin, on the day after clocks went back; 5:00 in New York, where that is a week later."""


def utc(written: str) -> datetime:
    return datetime.fromisoformat(written).replace(tzinfo=UTC)


# Phrase, and its start and end in UTC for somebody in Berlin and in New York. `now`: until now.
PHRASES = [
    ("today", "10-25 23:00", "now", "10-26 04:00", "now"),
    ("yesterday", "10-24 22:00", "10-25 23:00", "10-25 04:00", "10-26 04:00"),
    ("the day before yesterday", "10-23 22:00", "10-24 22:00", "10-24 04:00", "10-25 04:00"),
    ("last night", "10-25 17:00", "10-26 05:00", "10-25 22:00", "now"),
    ("overnight", "10-25 17:00", "10-26 05:00", "10-25 22:00", "now"),
    ("this morning", "10-25 23:00", "now", "10-26 04:00", "now"),
    ("yesterday morning", "10-24 22:00", "10-25 11:00", "10-25 04:00", "10-25 16:00"),
    ("yesterday evening", "10-25 17:00", "10-25 23:00", "10-25 22:00", "10-26 04:00"),
    ("at 3 am", "10-26 01:30", "10-26 02:30", "10-26 06:30", "10-26 07:30"),
    ("at 3 am yesterday", "10-25 01:30", "10-25 02:30", "10-25 06:30", "10-25 07:30"),
    ("yesterday at 2:30", "10-25 00:20", "10-25 01:40", "10-25 06:20", "10-25 06:40"),
    ("at 03:12", "10-26 02:02", "10-26 02:22", "10-26 07:02", "10-26 07:22"),
    ("last night at 3", "10-26 01:30", "10-26 02:30", "10-26 06:30", "10-26 07:30"),
    ("last night at 11", "10-25 21:30", "10-25 22:30", "10-26 02:30", "10-26 03:30"),
    ("at 11 last night", "10-25 21:30", "10-25 22:30", "10-26 02:30", "10-26 03:30"),
    ("since last Monday", "10-18 22:00", "now", "10-19 04:00", "now"),
    ("since Monday", "10-18 22:00", "now", "10-19 04:00", "now"),
    ("this Monday", "10-25 23:00", "now", "10-26 04:00", "now"),
    ("since Saturday", "10-23 22:00", "now", "10-24 04:00", "now"),
    ("on Sunday", "10-24 22:00", "10-25 23:00", "10-25 04:00", "10-26 04:00"),
    ("friday night", "10-23 16:00", "10-24 04:00", "10-23 22:00", "10-24 10:00"),
    ("last week", "10-18 22:00", "10-25 23:00", "10-19 04:00", "10-26 04:00"),
    ("this week", "10-25 23:00", "now", "10-26 04:00", "now"),
    ("over the weekend", "10-23 22:00", "10-25 23:00", "10-24 04:00", "10-26 04:00"),
    ("last month", "08-31 22:00", "09-30 22:00", "09-01 04:00", "10-01 04:00"),
    ("in the last hour", "10-26 08:00", "now", "10-26 08:00", "now"),
    ("past 90 minutes", "10-26 07:30", "now", "10-26 07:30", "now"),
    ("last 24h", "10-25 09:00", "now", "10-25 09:00", "now"),
    ("in the last two days", "10-24 08:00", "now", "10-24 09:00", "now"),
    ("the past week", "10-19 08:00", "now", "10-19 09:00", "now"),
    ("an hour ago", "10-26 07:30", "10-26 08:30", "10-26 07:30", "10-26 08:30"),
    ("half an hour ago", "10-26 08:00", "now", "10-26 08:00", "now"),
    ("10 minutes ago", "10-26 08:40", "now", "10-26 08:40", "now"),
    ("2 days ago", "10-23 22:00", "10-24 22:00", "10-24 04:00", "10-25 04:00"),
    ("2 days ago at 3 am", "10-24 00:30", "10-24 01:30", "10-24 06:30", "10-24 07:30"),
    ("since 2h ago", "10-26 07:00", "now", "10-26 07:00", "now"),
    ("since yesterday", "10-24 22:00", "now", "10-25 04:00", "now"),
    ("since midnight", "10-25 23:00", "now", "10-26 04:00", "now"),
    ("since this morning", "10-25 23:00", "now", "10-26 04:00", "now"),
    ("after yesterday 15:00", "10-25 14:00", "now", "10-25 19:00", "now"),
    ("between 3 and 5 am", "10-26 02:00", "10-26 04:00", "10-26 07:00", "now"),
    ("yesterday from 3 am to 5 am", "10-25 02:00", "10-25 04:00", "10-25 07:00", "10-25 09:00"),
    ("from Friday to Saturday", "10-22 22:00", "10-24 22:00", "10-23 04:00", "10-25 04:00"),
    ("since Friday until Saturday", "10-22 22:00", "10-24 22:00", "10-23 04:00", "10-25 04:00"),
    ("Oct 24", "10-23 22:00", "10-24 22:00", "10-24 04:00", "10-25 04:00"),
    ("on the 24th of October", "10-23 22:00", "10-24 22:00", "10-24 04:00", "10-25 04:00"),
    ("2026-10-24", "10-23 22:00", "10-24 22:00", "10-24 04:00", "10-25 04:00"),
    ("2026-10-24 10:00", "10-24 07:30", "10-24 08:30", "10-24 13:30", "10-24 14:30"),
    ("2026-10-24T10:00:00Z", "10-24 09:50", "10-24 10:10", "10-24 09:50", "10-24 10:10"),
    ("at 3 in the morning", "10-26 01:30", "10-26 02:30", "10-26 06:30", "10-26 07:30"),
]


@pytest.mark.parametrize("row", PHRASES, ids=lambda row: row[0])
@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK], ids=lambda zone: zone.key)
def test_a_phrase_names_the_same_interval_alone_and_in_a_sentence(
    row: tuple[str, str, str, str, str], zone: ZoneInfo
) -> None:
    phrase = row[0]
    start, end = row[1:3] if zone is BERLIN else row[3:]
    found = read_interval(f"what changed on nas {phrase}?", MONDAY, zone)
    assert found is not None
    assert (found.start, found.end) == (utc(f"2026-{start}"), MONDAY if end == "now" else utc(f"2026-{end}"))


# A zone, the present time, a phrase and its interval, all in UTC, on days when the clocks change.
CHANGES = [
    # Back at 3:00 on 25 October: 2:30 happens twice.
    (BERLIN, "2026-10-25 12:00", "at 2:30", "2026-10-25 00:20", "2026-10-25 01:40"),
    (BERLIN, "2026-10-25 12:00", "today", "2026-10-24 22:00", "2026-10-25 12:00"),
    (BERLIN, "2026-10-25 12:00", "last night", "2026-10-24 16:00", "2026-10-25 05:00"),
    (BERLIN, "2026-10-25 12:00", "last 24 hours", "2026-10-24 12:00", "2026-10-25 12:00"),
    (BERLIN, "2026-10-25 12:00", "since yesterday at 1 pm", "2026-10-24 11:00", "2026-10-25 12:00"),
    # Forward at 2:00 on 29 March: that day has 23 hours.
    (BERLIN, "2026-03-30 12:00", "yesterday", "2026-03-28 23:00", "2026-03-29 22:00"),
    (BERLIN, "2026-03-30 12:00", "yesterday at 3 am", "2026-03-29 00:30", "2026-03-29 01:30"),
    # Back at 2:00 on 1 November.
    (NEW_YORK, "2026-11-02 15:00", "yesterday", "2026-11-01 04:00", "2026-11-02 05:00"),
    (NEW_YORK, "2026-11-02 15:00", "yesterday at 1:30", "2026-11-01 05:20", "2026-11-01 06:40"),
    (NEW_YORK, "2026-11-02 15:00", "since Friday", "2026-10-30 04:00", "2026-11-02 15:00"),
    # Forward at 2:00 on 8 March.
    (NEW_YORK, "2026-03-09 12:00", "last night", "2026-03-08 22:00", "2026-03-09 10:00"),
    (NEW_YORK, "2026-03-08 16:00", "this morning", "2026-03-08 05:00", "2026-03-08 16:00"),
    # Just after midnight, the night is not over.
    (NEW_YORK, "2026-03-10 05:30", "last night", "2026-03-09 22:00", "2026-03-10 05:30"),
]


@pytest.mark.parametrize(("zone", "now", "phrase", "start", "end"), CHANGES)
def test_days_keep_their_real_length_when_clocks_change(
    zone: ZoneInfo, now: str, phrase: str, start: str, end: str
) -> None:
    found = read_interval(phrase, utc(now), zone)
    assert found is not None
    assert (found.start, found.end) == (utc(start), min(utc(end), utc(now)))


@pytest.mark.parametrize(("zone", "now"), [(BERLIN, "2026-03-29 12:00"), (NEW_YORK, "2026-03-08 16:00")])
def test_a_time_that_the_clocks_skipped_is_refused(zone: ZoneInfo, now: str) -> None:
    with pytest.raises(InvalidInput, match="there was no 02:30"):
        read_interval("why did web restart at 2:30 am", utc(now), zone)


REFUSED = {
    "who stopped web at 3": "3 am or 3 pm",
    "what happened since 9": "9 am or 9 pm",
    "what happened at 25:00": "not a time of day",
    "what happened at 10:75": "not a time of day",
    "what happened at 13 pm": "not a time of day",
    "what changed while I was away": "when you were away",
    "what changed since I left": "when you were away",
    "what changed in the last few hours": "not exact",
    "who stopped web a few days ago": "not exact",
    "stop web tomorrow": "in the future",
    "restart web in 2 hours": "in the future",
    "restart web next Friday": "in the future",
    "what happens today at 11 pm": "in the future",
    "what changed this evening": "in the future",
    "what changed since 2031-01-01": "in the future",
    "restart web every night": "not one time",
    "what changed on 2026-02-30": "not a day of the calendar",
    "what changed on Feb 31": "not a day of the calendar",
    "events from Sunday to Friday": "ends before it begins",
    "last night at noon": "not in the night",
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_ambiguous_or_not_in_the_past_is_refused(sentence: str) -> None:
    with pytest.raises(InvalidInput, match=REFUSED[sentence]):
        read_interval(sentence, MONDAY, BERLIN)


@pytest.mark.parametrize(
    "sentence",
    [
        "who stopped web",
        "why did monday-backup restart",
        "show the last 5 lines of web",
        "when did web last run",
        "is the disk at 90 % on nas",
        "restart mon",
        "run web on port 8080 for 10 minutes",
        "restart web since it hangs",
        "scale web to 3",
        "what may I stop at the moment",
        "",
    ],
)
def test_a_sentence_without_a_time_has_no_interval(sentence: str) -> None:
    assert read_interval(sentence, MONDAY, BERLIN) is None


def test_the_phrase_found_tells_its_place_in_the_sentence() -> None:
    sentence = "why did web restart yesterday, at 3 am?"
    found = read_interval(sentence, MONDAY, BERLIN)
    assert found is not None
    assert found.words == "yesterday, at 3 am"
    assert sentence[slice(*found.span)] == found.words
    assert found.moment == utc("2026-10-25 02:00")


def test_arguments_are_read_as_a_whole() -> None:
    assert parse_since("2h", MONDAY, BERLIN) == utc("2026-10-26 07:00")
    assert parse_since("1h30m", MONDAY, BERLIN) == utc("2026-10-26 07:30")
    assert parse_since("7 days", MONDAY, BERLIN) == utc("2026-10-19 08:00")
    assert parse_since("2h ago", MONDAY, BERLIN) == utc("2026-10-26 07:00")
    assert parse_since("mon", utc("2026-10-28 10:00"), BERLIN) == utc("2026-10-25 23:00")
    assert parse_since(" Yesterday ", MONDAY, BERLIN) == utc("2026-10-24 22:00")
    assert parse_until("yesterday", MONDAY, BERLIN) == utc("2026-10-25 23:00")
    assert parse_until("yesterday at 3 am", MONDAY, BERLIN) == utc("2026-10-25 02:00")
    assert parse_since("1792832400", MONDAY, BERLIN) == utc("2026-10-24 09:00")
    for wrong in ("90", "yesterday or so", "the flood", "web", "", "yesterdayish", "9" * 30 + "d", "999999d"):
        with pytest.raises(InvalidInput):
            parse_interval(wrong, MONDAY, BERLIN)


def test_the_zone_of_the_person_is_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    assert local_zone() == NEW_YORK
    monkeypatch.setenv("TZ", "Middle/Earth")
    assert local_zone().utcoffset(MONDAY) is not None
    monkeypatch.delenv("TZ")
    assert local_zone().utcoffset(MONDAY) is not None


def test_the_name_of_the_present_day_is_taken_as_a_week_ago_and_that_is_said() -> None:
    found = read_interval("what changed since monday", MONDAY, BERLIN)

    assert found and found.remark == "`monday` taken as Monday a week ago (19 October); for today say `today`"
    for words in ("since last monday", "since saturday"):
        clear = read_interval(words, MONDAY, BERLIN)
        assert clear and not clear.remark


def test_an_argument_that_names_the_present_day_is_remarked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    today = f"{datetime.now(UTC):%A}".lower()

    assert remark_on(today).startswith(f"`{today}` taken as {today.title()} a week ago")
    assert [remark_on(words) for words in ("", "24h", "yesterday", "last " + today)] == [""] * 4
