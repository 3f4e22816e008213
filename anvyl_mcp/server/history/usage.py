"""Memory and cpu over time, and when a disk will be full."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from anvyl_mcp.server.history.retention import DAY, HOUR, KEEP_MINUTES
from anvyl_mcp.server.history.store import MICROSECOND

KIB = 1024
STEPS = (60, 300, 900, HOUR, 3 * HOUR, 6 * HOUR, DAY)
MOST_POINTS = 26
FORECAST_SECONDS = 7 * DAY
MIN_FORECAST_SECONDS = DAY
"""A line through less than a day says nothing about a week."""
MIN_FIT = 0.5
"""Share of the variance that the line must explain (R²)."""
LONGEST_FORECAST = 365.0
FULL_SOURCE = "SELECT at, subject, 1 AS samples, cpu, cpu AS cpu_peak, memory, memory AS memory_peak FROM minute"
HOURLY_SOURCE = "SELECT at, subject, samples, cpu, cpu_peak, memory, memory_peak FROM hour"


@dataclass(frozen=True, slots=True)
class UsagePoint:
    """Usage in one step: cpu in percent, memory in bytes; null where nothing was recorded."""

    at: int
    cpu: float | None
    cpu_peak: float | None
    memory: int | None
    memory_peak: int | None


@dataclass
class SubjectUsage:
    """Usage of the machine (an empty name) or of all containers of one name."""

    name: str
    cpu: float | None
    memory: int | None
    cpu_peak: float | None = None
    cpu_peak_at: int | None = None
    memory_peak: int | None = None
    memory_peak_at: int | None = None
    restarts: int = 0
    points: list[UsagePoint] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Bucket:
    """The samples of one step, with each peak and its time."""

    samples: int
    point: UsagePoint
    cpu_peak: tuple[int, int]
    memory_peak: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Forecast:
    """A disk now, its growth in bytes a day, and the days until it is full if it grows on; None: it does not grow."""

    mount: str
    used: int
    total: int
    growth: int | None
    full_in_days: float | None
    days: float
    """How much history the estimate is from."""


def step_of(seconds: float, points: int = 0) -> int:
    """The step in which a period is summed up: a round one, or one for about so many points."""
    if points:
        unit = HOUR if seconds > DAY else 60
        return max(unit, -int(-seconds // points // unit) * unit)
    return next((step for step in STEPS if seconds / step <= MOST_POINTS), -int(-seconds // MOST_POINTS // DAY) * DAY)


def read_usage(
    db: sqlite3.Connection, start: int, end: int, now: int, *, names: Sequence[str] | None, step: int
) -> list[SubjectUsage]:
    """Usage between two times in seconds: of the containers of these names, or of the machine and all containers."""
    hourly = start < now - KEEP_MINUTES or (step >= HOUR and end - start > DAY)
    source = HOURLY_SOURCE if hourly else FULL_SOURCE
    begin = start - start % HOUR if hourly else start
    which = "kind IN ('container', 'machine')" if names is None else f"kind = 'container' AND name IN ({_marks(names)})"
    rows = db.execute(
        f"SELECT name, kind = 'machine', (at - ?) / ? AS bucket,"
        " sum(cpu * samples * 1.0) / sum(CASE WHEN cpu IS NULL THEN 0 ELSE samples END),"
        " max((cpu_peak << 23) | (at & 8388607)),"
        " sum(memory * samples * 1.0) / sum(CASE WHEN memory IS NULL THEN 0 ELSE samples END),"
        " max((memory_peak << 23) | (at & 8388607)),"
        f" sum(samples) FROM ({source} WHERE at >= ? AND at < ?) AS rows JOIN subject ON subject.n = rows.subject"
        f" WHERE {which} GROUP BY name, kind, bucket ORDER BY name, bucket",
        (begin, step, begin, end, *(names or ())),
    ).fetchall()
    grouped: dict[tuple[str, int], list[_Bucket]] = defaultdict(list)
    for name, machine, bucket, cpu, cpu_peak, memory, memory_peak, samples in rows:
        highest = _unpack(cpu_peak, end), _unpack(memory_peak, end)
        point = UsagePoint(
            begin + bucket * step, _percent(cpu), _percent(highest[0][0]), _bytes(memory), _bytes(highest[1][0])
        )
        grouped[name, machine].append(_Bucket(samples, point, *highest))
    restarts = _restarts(db, start, end)
    found = [
        _total("" if machine else name, buckets, 0 if machine else restarts.get(name, 0))
        for (name, machine), buckets in grouped.items()
    ]
    return sorted(found, key=lambda one: (one.name != "", -(one.memory or 0), one.name))


def forecasts(db: sqlite3.Connection, now: int) -> list[Forecast]:
    """A forecast for each disk with a recent sample, from a line through its last seven days."""
    disks = db.execute("SELECT n, name, total FROM subject WHERE kind = 'disk' AND total > 0 ORDER BY name").fetchall()
    found = []
    for number, mount, total in disks:
        hours = db.execute(
            "SELECT at, memory FROM hour WHERE subject = ? AND at >= ? AND at <= ? AND memory IS NOT NULL ORDER BY at",
            (number, now - FORECAST_SECONDS, now),
        ).fetchall()
        last = db.execute(
            "SELECT at, memory FROM minute WHERE subject = ? AND at <= ? ORDER BY at DESC LIMIT 1", (number, now)
        ).fetchone() or (hours[-1] if hours else None)
        if last is not None and now - last[0] < DAY:
            found.append(_forecast(mount, last[1] * KIB, total * KIB, hours))
    return found


def _forecast(mount: str, used: int, total: int, hours: Sequence[tuple[int, int]]) -> Forecast:
    span = hours[-1][0] - hours[0][0] if hours else 0
    if span < MIN_FORECAST_SECONDS:
        return Forecast(mount, used, total, None, None, span / DAY)
    slope, fit = _line(hours)
    growth = round(slope * KIB * DAY)
    days = (total - used) / growth if growth > 0 and fit >= MIN_FIT else None
    return Forecast(
        mount, used, total, growth, days if days is not None and days <= LONGEST_FORECAST else None, span / DAY
    )


def _line(points: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Slope of the least-squares line, and the share of the variance that it explains."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    xx = sum((x - mean_x) ** 2 for x, _ in points)
    yy = sum((y - mean_y) ** 2 for _, y in points)
    xy = sum((x - mean_x) * (y - mean_y) for x, y in points)
    if not xx or not yy:
        return 0.0, 0.0
    return xy / xx, xy * xy / (xx * yy)


def _unpack(packed: int | None, end: int) -> tuple[int, int]:
    """A peak and its time from one number: its lower 23 bits are those of the time, at most 97 days before the end."""
    if packed is None:
        return 0, 0
    return packed >> 23, end - ((end - packed) & 8388607)


def _total(name: str, buckets: Sequence[_Bucket], restarts: int) -> SubjectUsage:
    points = [one.point for one in buckets]
    cpu = _mean((one.samples, one.point.cpu) for one in buckets)
    memory = _mean((one.samples, one.point.memory) for one in buckets)
    total = SubjectUsage(name, None, None, restarts=restarts, points=points)
    if cpu is not None:
        peak, total.cpu_peak_at = max(one.cpu_peak for one in buckets)
        total.cpu, total.cpu_peak = round(cpu, 1), _percent(peak)
    if memory is not None:
        peak, total.memory_peak_at = max(one.memory_peak for one in buckets)
        total.memory, total.memory_peak = round(memory), _bytes(peak)
    return total


def _mean(weighted: Iterable[tuple[int, float | None]]) -> float | None:
    known = [(count, value) for count, value in weighted if value is not None]
    total = sum(count for count, _ in known)
    return sum(count * value for count, value in known) / total if total else None


def _restarts(db: sqlite3.Connection, start: int, end: int) -> dict[str, int]:
    """How often containers ended, by name."""
    return dict(
        db.execute(
            "SELECT name, count(*) FROM event JOIN subject ON subject.n = event.subject"
            " WHERE action = 'die' AND at >= ? AND at < ? GROUP BY name",
            (start * MICROSECOND, end * MICROSECOND),
        ).fetchall()
    )


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


def _percent(hundredths: float | None) -> float | None:
    return None if hundredths is None else round(hundredths / 100, 1)


def _bytes(kib: float | None) -> int | None:
    return None if kib is None else round(kib * KIB)
