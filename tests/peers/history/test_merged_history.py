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
    return Outcome(host, "list_history", {}, ToolAnswer(result=result), seconds)


def test_events_are_in_order_of_time_although_a_clock_is_wrong() -> None:
    outcomes = [
        answer("nas", 0, ("a", 10), ("c", 30)),
        answer("pi", 3600, ("b", 20), ("d", 40), note="history is kept since 03:12"),
        Outcome("gpu", "list_history", {}, ToolAnswer(error=Unreachable("it is off")), 3.0),
    ]

    merged = merge(outcomes, dict.fromkeys(("nas", "pi", "gpu"), NOW.timestamp()))

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
        "pi: history is kept since 03:12",
    ]


def test_a_slow_answer_is_no_wrong_clock() -> None:
    merged = merge([answer("nas", -4, ("a", 10), seconds=6.0)], {"nas": NOW.timestamp()})

    assert merged.skews == {} and merged.notes == []


def test_gaps_and_left_out_entries_are_told() -> None:
    gaps = [{"start": "2026-11-28T00:00:00+00:00", "end": "2026-11-28T02:00:00+00:00"}] * 4
    merged = merge([answer("nas", 0, gaps=gaps, more=7)], {"nas": NOW.timestamp()})

    assert merged.notes[0].startswith("not recorded from 2026-11-28")
    assert merged.notes[3:] == ["and 1 more times", "7 older ones are not shown; raise --limit"]
