"""Results of the history tools, and their text: grouped, newest first, in this host's time zone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from anvyl_mcp.core import text
from anvyl_mcp.core.values.day_words import DayWords
from anvyl_mcp.core.values.history_words import entry_lines, missing_words, state_words
from anvyl_mcp.server.history.usage import Forecast, SubjectUsage
from anvyl_mcp.server.tool import Bytes, KnownBytes, KnownPercent, Result, Row, Time

MAX_TEXT = 4200
"""Characters of the text: about 1,100 tokens."""
MAX_USAGE_ROWS = 20


class HistoryEntry(Row):
    """One thing that happened, or several equal ones. `first` is set for several."""

    columns = ("time", "name", "what", "who", "times", "detail")

    time: Time
    name: str
    what: str
    who: str = ""
    times: Annotated[int, Field(json_schema_extra={"format": "times"})] = 1
    detail: str = ""
    exit_code: int | None = None
    first: Time = ""
    id: str = ""
    lines: list[str] = Field(default=[])


class Gap(BaseModel):
    """A time in which nothing was recorded."""

    start: Time
    end: Time


class History(Result):
    """What happened, newest first. `now` is this host's clock; `problem` says why history is not recorded.

    `state` is of the container that was asked for by `name`: since when it runs, or until when it ran. `clock_set` is
    when the clock of this host last jumped, and `clock_set_by` by how many seconds.
    """

    events: list[HistoryEntry]
    total: int
    more: int = 0
    since: Time
    until: Time
    kept_since: Time
    now: Time
    name: str = ""
    state: Literal["", "running", "ended"] = ""
    state_since: Time = ""
    clock_set: Time = ""
    clock_set_by: int = 0
    gaps: list[Gap] = Field(default=[])
    note: str = ""
    problem: str = ""

    def text(self) -> str:
        """A line for each entry, the last log lines below the newest end, and what is missing."""
        days, own = DayWords(self.now), self.model_dump()
        state, missing = state_words(own, days), missing_words(own, days)
        lines = [f"times in {days.zone}", *([state] if state else [])] if self.events else []
        left = MAX_TEXT - sum(map(len, missing))
        shown = 0
        for entry in own["events"]:
            block = entry_lines(entry, entry["time"], days)
            left -= sum(len(line) + 1 for line in block)
            if left < 0 and shown:
                break
            lines += block
            shown += 1
        if hidden := self.total - shown:
            lines.append(f"… {hidden} more; narrow it with `name`, `kind` or `since`")
        return "\n".join([*lines, *missing]) or "nothing happened in that time"


class UsageStep(BaseModel):
    """Usage in one step."""

    time: Time
    cpu_percent: KnownPercent = None
    cpu_peak: KnownPercent = None
    memory: KnownBytes = None
    memory_peak: KnownBytes = None


class UsageRow(Row):
    """Mean and peak of one container, or of the machine. cpu: 100 for each busy core; of the machine: of all cores."""

    columns = ("name", "cpu_percent", "cpu_peak", "memory", "memory_peak", "ended")

    name: str
    cpu_percent: KnownPercent = None
    cpu_peak: KnownPercent = None
    cpu_peak_time: Time = ""
    memory: KnownBytes = None
    memory_peak: KnownBytes = None
    memory_peak_time: Time = ""
    ended: Annotated[int, Field(json_schema_extra={"format": "times"})] = 0
    cpu_trend: list[float | None] = Field(default=[])
    memory_trend: list[int | None] = Field(default=[])


class DiskForecast(BaseModel):
    """A disk, its growth a day, and in how many days it will be full: an estimate from `days` of history."""

    mount: str
    used: Bytes
    total: Bytes
    growth_per_day: int | None = None
    full_in_days: float | None = None
    days: float = 0.0
    summary: str = ""


class UsageHistory(Result):
    """Memory, cpu and disk over time. `series` is of one container, or of the machine."""

    usage: list[UsageRow]
    total: int
    more: int = 0
    series: list[UsageStep]
    step_seconds: int
    disks: list[DiskForecast] = Field(default=[])
    since: Time
    until: Time
    kept_since: Time
    now: Time
    note: str = ""
    problem: str = ""

    def text(self) -> str:
        """A line for the machine and each container, then the series and the disks."""
        days = DayWords(self.now)
        lines = [f"{days.of(self.since)} to {days.of(self.until)} {days.zone}: mean, peak"] if self.usage else []
        lines += [usage_line(row, days) for row in self.usage[:MAX_USAGE_ROWS]]
        if (hidden := self.total - MAX_USAGE_ROWS) > 0:
            lines.append(f"… {hidden} more that use less; ask for one by `name`")
        if self.series:
            lines.append(f"{self.usage[0].name if self.usage else ''} every {text.format_duration(self.step_seconds)}:")
            lines += [step_line(one, days) for one in self.series]
        lines += [disk.summary for disk in self.disks]
        return "\n".join([*lines, *missing_words(self.model_dump(), days)]) or "nothing was recorded in that time"


def usage_line(row: UsageRow, days: DayWords) -> str:
    """`web cpu 3 %, 80 % at 03:12; memory 120 MiB, 300 MiB at 03:12; ended 2 times`."""
    parts = []
    if row.cpu_percent is not None:
        parts.append(f"cpu {row.cpu_percent:g} %, {_peak(row.cpu_peak, row.cpu_peak_time, days)}")
    if row.memory is not None:
        peak = f", {text.format_size(row.memory_peak or 0)} at {days.of(row.memory_peak_time)}"
        parts.append(f"memory {text.format_size(row.memory)}{peak if row.memory_peak_time else ''}")
    if row.ended:
        parts.append(f"ended {text.plural(row.ended, 'time')}")
    return f"{row.name} {'; '.join(parts)}"


def step_line(one: UsageStep, days: DayWords) -> str:
    """`03:00 cpu 3 % memory 120 MiB`."""
    cpu = "" if one.cpu_percent is None else f" cpu {one.cpu_percent:g} %"
    memory = "" if one.memory is None else f" memory {text.format_size(one.memory)}"
    return f"{days.of(one.time)}{cpu}{memory}"


def usage_row(found: SubjectUsage, machine: str, trends: Sequence[int]) -> UsageRow:
    """The row of one subject. `trends`: the begin of each step in seconds, or nothing."""
    by_time = {one.at: one for one in found.points}
    return UsageRow(
        name=found.name or machine,
        cpu_percent=found.cpu,
        cpu_peak=found.cpu_peak,
        cpu_peak_time=to_time(found.cpu_peak_at),
        memory=found.memory,
        memory_peak=found.memory_peak,
        memory_peak_time=to_time(found.memory_peak_at),
        ended=found.restarts,
        cpu_trend=[by_time[at].cpu if at in by_time else None for at in trends],
        memory_trend=[by_time[at].memory if at in by_time else None for at in trends],
    )


def usage_steps(found: SubjectUsage) -> list[UsageStep]:
    """The series of one subject."""
    return [
        UsageStep(
            time=to_time(one.at),
            cpu_percent=one.cpu,
            cpu_peak=one.cpu_peak,
            memory=one.memory,
            memory_peak=one.memory_peak,
        )
        for one in found.points
    ]


def disk_forecasts(found: Iterable[Forecast]) -> list[DiskForecast]:
    """The forecasts of all disks, the first to be full first."""
    rows = [
        DiskForecast(
            mount=one.mount,
            used=one.used,
            total=one.total,
            growth_per_day=one.growth,
            full_in_days=None if one.full_in_days is None else round(one.full_in_days, 1),
            days=round(one.days, 1),
        )
        for one in found
    ]
    for row in rows:
        row.summary = forecast_words(row)
    return sorted(rows, key=lambda row: (row.full_in_days is None, row.full_in_days or 0, -row.used / (row.total or 1)))


def forecast_words(row: DiskForecast) -> str:
    """`disk / 80 GiB of 100 GiB (80 %): grows 1 GiB a day, full in about 20 days (estimate from the last 7 days)`."""
    share = f"{100 * row.used / row.total:.0f} %" if row.total else "-"
    words = f"disk {row.mount} {text.format_size(row.used)} of {text.format_size(row.total)} ({share})"
    if row.growth_per_day is None:
        return f"{words}: less than a day of history, so no forecast"
    if row.full_in_days is not None:
        return (
            f"{words}: grows {text.format_size(row.growth_per_day)} a day, full in about "
            f"{_days(row.full_in_days)} (estimate from the last {_days(row.days)})"
        )
    if row.growth_per_day > 0:
        return f"{words}: no steady growth; full in over a year, or not at all (from the last {_days(row.days)})"
    return f"{words}: does not grow (from the last {_days(row.days)})"


def to_time(seconds: float | None) -> str:
    """ISO 8601 in UTC; empty for None."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _peak(percent: float | None, when: str, days: DayWords) -> str:
    return f"{percent or 0:g} % at {days.of(when)}" if when else "-"


def _days(count: float) -> str:
    return text.format_duration(count * 86400) if count < 2 else f"{count:.0f} days"
