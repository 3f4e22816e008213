"""Asks hosts for their history and merges the answers in order of time, on the clock of this machine.

Each answer has the time of its host's clock, so a clock that is wrong shows, and the times of its events are corrected.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome

TOOL = "list_history"
MIN_SKEW = 3.0
"""Seconds: the hosts' clocks are read in whole seconds, and a request takes some time."""


@dataclass(frozen=True, slots=True)
class HostEvent:
    """An event of one host; `time` is on this machine's clock."""

    host: str
    time: datetime
    fields: Mapping[str, Any]


@dataclass
class MergedHistory:
    """The events of all hosts, newest first, and what is known to be missing."""

    outcomes: Sequence[Outcome]
    events: list[HostEvent] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skews: dict[str, float] = field(default_factory=dict)
    """Seconds by which the clock of a host is ahead, where it is wrong."""


async def read_history(fleet: Fleet, hosts: Sequence[str], arguments: Mapping[str, Any]) -> MergedHistory:
    """Ask hosts at once; those that fail are among the outcomes."""
    ended: dict[str, float] = {}

    def note_end(outcome: Outcome) -> None:
        ended[outcome.host] = time.time()

    done = await fleet.call_many(hosts, TOOL, arguments, on_outcome=note_end)
    return merge(list(done.values()), ended)


def merge(outcomes: Sequence[Outcome], ended: Mapping[str, float]) -> MergedHistory:
    """Merge answers. `ended`: when each one arrived, in seconds on this machine's clock."""
    merged = MergedHistory(outcomes)
    alone = len(outcomes) == 1
    for one in outcomes:
        if not one.ok or one.answer.result is None:
            continue
        result = one.answer.result
        skew = clock_skew(result, ended[one.host], one.seconds)
        if skew:
            merged.skews[one.host] = skew
            direction = "ahead" if skew > 0 else "behind"
            merged.notes.append(
                f"the clock of {one.host} is {text.format_duration(abs(skew))} {direction}; its times are corrected"
            )
        for event in result.get("events") or ():
            if moment := moment_of(event.get("time")):
                merged.events.append(HostEvent(one.host, moment - timedelta(seconds=skew), event))
        where = "" if alone else f"{one.host}: "
        words = [result.get("state"), *_gap_words(result), result.get("note"), result.get("problem")]
        merged.notes += [f"{where}{word}" for word in words if word]
        if hidden := result.get("more"):
            merged.notes.append(f"{where}{hidden} older ones are not shown; raise --limit")
    merged.events.sort(key=lambda event: event.time, reverse=True)
    return merged


def clock_skew(result: Mapping[str, Any], arrived: float, seconds: float) -> float:
    """Seconds by which a host's clock is ahead; 0 if the difference may be the duration of the call."""
    moment = moment_of(result.get("now"))
    if moment is None:
        return 0.0
    skew = moment.timestamp() - (arrived - seconds / 2)
    return skew if abs(skew) > MIN_SKEW + seconds else 0.0


def moment_of(written: Any) -> datetime | None:
    """The time that a host wrote as ISO 8601; None if it is none."""
    try:
        moment = datetime.fromisoformat(written)
    except (TypeError, ValueError):
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC)


def _gap_words(result: Mapping[str, Any]) -> list[str]:
    gaps = result.get("gaps") or []
    words = [
        f"not recorded from {text.format_local_time(gap['start'])} to {text.format_local_time(gap['end'])}"
        for gap in gaps[:3]
    ]
    return [*words, f"and {len(gaps) - 3} more times"] if len(gaps) > 3 else words
