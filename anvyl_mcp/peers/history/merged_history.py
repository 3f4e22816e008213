"""Asks hosts for their history and merges the answers in order of time, on the clock of this machine.

Each answer has the time of its host's clock, so a clock that is wrong shows, and the times of its events are corrected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.values.day_words import DayWords
from anvyl_mcp.core.values.history_words import entry_lines, missing_words, state_words
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome

TOOL = "list_history"
MIN_SKEW = 3.0
"""Seconds: the hosts' clocks are read in whole seconds, and a request takes some time."""
MAX_TEXT = 4200
"""Characters of the text: about 1,100 tokens."""


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
    states: list[str] = field(default_factory=list)
    """`web on nas has been running since 03:12`, if one name was asked for."""
    notes: list[str] = field(default_factory=list)
    skews: dict[str, float] = field(default_factory=dict)
    """Seconds by which the clock of a host is ahead, where it is wrong."""
    hidden: int = 0
    """Entries that the hosts did not send."""

    def text(self) -> str:
        """A line for each entry, newest first, and what is missing."""
        days = DayWords()
        lines = [f"times in {days.zone}", *self.states] if self.events else []
        left, shown = MAX_TEXT - sum(map(len, (*self.states, *self.notes))), 0
        for event in self.events:
            block = entry_lines(event.fields, event.time.isoformat(), days, event.host)
            left -= sum(len(line) + 1 for line in block)
            if left < 0 and shown:
                break
            lines += block
            shown += 1
        if hidden := self.hidden + len(self.events) - shown:
            lines.append(f"… {hidden} more; narrow it with `name`, `kind`, `since` or a host")
        return "\n".join([*lines, *self.notes]) or "nothing was recorded in that time"


async def read_history(fleet: Fleet, hosts: Sequence[str], arguments: Mapping[str, Any]) -> MergedHistory:
    """Ask hosts at once; those that fail are among the outcomes."""
    return merge(list((await fleet.call_many(hosts, TOOL, arguments)).values()))


def merge(outcomes: Sequence[Outcome]) -> MergedHistory:
    """Merge answers."""
    merged, days = MergedHistory(outcomes), DayWords()
    answered = [(one, one.answer.result) for one in outcomes if one.ok and one.answer.result is not None]
    found = any(result.get("events") for _, result in answered)
    for one, result in answered:
        clock = HostClock(result, one.ended, one.seconds)
        if clock.skew:
            merged.skews[one.host] = clock.skew
            away = f"{text.format_duration(abs(clock.skew))} {'ahead' if clock.skew > 0 else 'behind'}"
            merged.notes.append(f"the clock of {one.host} is {away}; its times are corrected")
        corrected = clock.corrected_result(result)
        if found and result.get("name") and not result.get("events"):
            corrected["note"] = ""  # that one host does not know a name is of no interest if another does
        where = "" if len(outcomes) == 1 else f"{one.host}: "
        merged.states += filter(None, [state_words(corrected, days, one.host if where else "")])
        merged.events += [
            HostEvent(one.host, moment, event)
            for event in corrected["events"]
            if (moment := moment_of(event.get("time")))
        ]
        merged.notes += [f"{where}{words}" for words in missing_words(corrected, days)]
        merged.hidden += int(result.get("more") or 0)
    merged.events.sort(key=lambda event: event.time, reverse=True)
    return merged


class HostClock:
    """The clock of a host, and the times that it gave, on the clock of this machine."""

    def __init__(self, result: Mapping[str, Any], arrived: float, seconds: float) -> None:
        self.skew = _skew(result, arrived, seconds)
        """Seconds by which it is ahead."""
        # What it gave before it was set is not wrong in the same way.
        self._set = moment_of(result.get("clock_set"))

    def corrected(self, written: Any) -> datetime | None:
        """A time; None if it cannot be read."""
        moment = moment_of(written)
        if moment is None or (self._set is not None and moment < self._set):
            return moment
        return moment - timedelta(seconds=round(self.skew))

    def corrected_result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """A result of a history tool with all its times."""
        corrected = self._corrected_fields(result, "state_since", "kept_since", "clock_set", "since", "until")
        corrected["gaps"] = [self._corrected_fields(gap, "start", "end") for gap in result.get("gaps") or ()]
        corrected["events"] = [self._corrected_fields(event, "time", "first") for event in result.get("events") or ()]
        return corrected

    def _corrected_fields(self, fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
        """The same fields, some of which are times."""
        times = {
            name: moment.isoformat(timespec="seconds") for name in names if (moment := self.corrected(fields.get(name)))
        }
        return {**fields, **times}


def _skew(result: Mapping[str, Any], arrived: float, seconds: float) -> float:
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
