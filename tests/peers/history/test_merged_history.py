"""The histories of several hosts in order of time, although their clocks differ."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from anvyl_mcp.core.errors import Unreachable
from anvyl_mcp.peers.connection.listing import ToolAnswer
from anvyl_mcp.peers.fleet.fleet import Outcome
from anvyl_mcp.peers.history.merged_history import merge

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def answer(host: str, ahead: float, *events: tuple[str, float], seconds: float = 0.2, **fields: Any) -> Outcome:
    """The history of a host whose clock is ahead; events are a name and their age in seconds."""

    def on_its_clock(ago: float) -> str:
        return (NOW - timedelta(seconds=ago - ahead)).isoformat(timespec="seconds")

    rows = [{"time": on_its_clock(ago), "name": name, "what": "started"} for name, ago in events]
    result = {"events": rows, "now": on_its_clock(0), **fields}
    return Outcome(host, "list_history", {}, ToolAnswer(result=result), seconds, NOW.timestamp())


def test_events_are_in_order_of_time_although_a_clock_is_wrong() -> None:
    outcomes = [
        answer("nas", 0, ("a", 10), ("c", 30)),
        answer("pi", 3600, ("b", 20), ("d", 40), problem="the disk is almost full"),
        Outcome("gpu", "list_history", {}, ToolAnswer(error=Unreachable("it is off")), 3.0),
    ]

    merged = merge(outcomes)

    assert [(event.host, event.fields["name"]) for event in merged.events] == [
        ("nas", "a"),
        ("pi", "b"),
        ("nas", "c"),
        ("pi", "d"),
    ]
    assert abs((merged.events[1].time - NOW).total_seconds() + 20) < 2
    assert set(merged.skews) == {"pi"}
    assert merged.notes == [
        "the clock of pi is 60 min ahead; its times are corrected",
        "pi: the disk is almost full",
    ]
    shown = merged.text().splitlines()
    assert [line.partition("  ")[2] for line in shown[1:5]] == [f"{name} on {host} started" for name, host in ORDER]


ORDER = [("a", "nas"), ("b", "pi"), ("c", "nas"), ("d", "pi")]


def test_times_from_before_a_clock_was_set_are_not_corrected_by_what_it_is_wrong_now() -> None:
    clock_set = (NOW + timedelta(seconds=3600 - 30)).isoformat(timespec="seconds")
    jump: dict[str, Any] = {"clock_set": clock_set, "clock_set_by": 3600}
    after, before = answer("pi", 3600, ("b", 20), **jump), answer("old", 3600, ("c", 3600 + 40), **jump)

    merged = merge([answer("nas", 0, ("a", 10)), after, before])

    assert [(event.fields["name"], round((NOW - event.time).total_seconds())) for event in merged.events] == [
        ("a", 10),
        ("b", 20),
        ("c", 40),
    ]
    assert any(words.startswith("pi: the clock was set forward by 60 min at ") for words in merged.notes)


def test_what_only_one_host_knows_is_no_news_from_the_others() -> None:
    state = (NOW - timedelta(hours=1)).isoformat(timespec="seconds")
    unknown = answer("nas", 0, name="web", note="no container `web` is known here")
    known = answer("pi", 0, ("web", 10), name="web", state="running", state_since=state)

    assert merge([unknown, known]).notes == []
    assert merge([unknown, known]).states[0].startswith("web on pi has been running since ")
    assert merge([unknown, unknown]).notes == ["nas: no container `web` is known here"] * 2


def test_a_slow_answer_is_no_wrong_clock() -> None:
    merged = merge([answer("nas", -4, ("a", 10), seconds=6.0)])

    assert merged.skews == {} and merged.notes == []


def test_gaps_and_left_out_entries_are_reported() -> None:
    gaps = [{"start": "2026-11-28T00:00:00+00:00", "end": "2026-11-28T02:00:00+00:00"}] * 4
    merged = merge([answer("nas", 0, gaps=gaps, more=7)])

    assert merged.notes[0].startswith("not recorded from Nov 2")
    assert merged.notes[3:] == ["and 1 more before"]
    assert merged.hidden == 7 and "… 7 more" in merged.text()
