"""Words about recorded history, the same in the answer of one host and in that of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.values.day_words import DayWords

OUTSIDE = "outside Anvyl"
WHO = {"local": "a local command"}
NOT_KEPT = "no history was kept yet: this is what the engine remembers; `anvyl-mcp serve` records it"
MOST_GAPS = 3
SHOWN_LINES = 15
"""Last log lines in a text."""
SHOWN_LINE = 160


def entry_lines(entry: Mapping[str, Any], when: str, days: DayWords, host: str = "") -> list[str]:
    """`03:12  web crashed ×5 (exit code 1), first 03:02`, and below it the last log lines."""
    place = f" on {host}" if host else ""
    times = f" ×{entry['times']}" if entry.get("times", 1) > 1 else ""
    by = f" {by_words(entry)}" if entry.get("who") else ""
    detail = f" ({entry['detail']})" if entry.get("detail") else ""
    first = f", first {days.of(entry['first'])}" if entry.get("first") else ""
    line = f"{days.of(when)}  {entry.get('name', '')}{place} {entry.get('what', '')}{times}{by}{detail}{first}"
    return [line, *(f"  | {one[:SHOWN_LINE]}" for one in (entry.get("lines") or [])[-SHOWN_LINES:])]


def by_words(entry: Mapping[str, Any]) -> str:
    """`by ann`, `outside Anvyl`; empty if it happened by itself."""
    who = str(entry.get("who") or "")
    return who if who in ("", OUTSIDE) else f"by {WHO.get(who, who)}"


def state_words(result: Mapping[str, Any], days: DayWords, host: str = "") -> str:
    """`web has been running since …`, or until when it last ran; empty if that is not known."""
    if not result.get("state") or not result.get("state_since"):
        return ""
    what = "has been running since" if result["state"] == "running" else "last ran until"
    return f"{result.get('name', '')}{f' on {host}' if host else ''} {what} {days.of(result['state_since'])}"


def missing_words(result: Mapping[str, Any], days: DayWords) -> list[str]:
    """What is missing in an answer: gaps, the time before history was kept, and what stands in the way."""
    gaps: Sequence[Mapping[str, str]] = (result.get("gaps") or ())[::-1]
    words = [str(result["note"])] if result.get("note") else []
    words += [f"not recorded from {days.of(gap['start'])} to {days.of(gap['end'])}" for gap in gaps[:MOST_GAPS]]
    if len(gaps) > MOST_GAPS:
        words.append(f"and {len(gaps) - MOST_GAPS} more before")
    kept = str(result.get("kept_since") or "")
    if not kept and "kept_since" in result:
        words.append(NOT_KEPT)
    elif kept > str(result.get("since") or ""):
        words.append(f"history is kept since {days.of(kept)}")
    if result.get("clock_set_by"):
        words.append(clock_words(result, days))
    return [*words, str(result["problem"])] if result.get("problem") else words


def clock_words(result: Mapping[str, Any], days: DayWords) -> str:
    """`the clock was set forward by 2 h at 03:12`."""
    seconds = result["clock_set_by"]
    length = text.format_duration(abs(seconds))
    return f"the clock was set {'forward' if seconds > 0 else 'back'} by {length} at {days.of(result['clock_set'])}"
