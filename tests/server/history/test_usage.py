"""Usage over time, peaks and forecasts, from minutes and from hours."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anvyl_mcp.server.history import retention, usage
from anvyl_mcp.server.history.store import HistoryStore, subject_number

NOW = 1_790_000_400
HOUR, DAY, KIB = 3600, 86400, 1024


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    store = HistoryStore(tmp_path / "history")
    found: list[sqlite3.Connection] = []
    store.write(found.append)
    yield found[0]
    store.close()


def record(
    db: sqlite3.Connection, name: str, figures: Callable[[int], tuple[int, int] | None], days: float = 1
) -> None:
    """Record a minute each: cpu in hundredths of a percent, memory in KiB."""
    number = subject_number(db, "container", name * 20, name)
    for at in range(NOW - int(days * DAY), NOW, 60):
        if (found := figures(at)) is not None:
            db.execute("INSERT INTO minute VALUES (?, ?, ?, ?)", (at, number, *found))


def test_mean_and_peak_of_a_container_and_when(db: sqlite3.Connection) -> None:
    peak = NOW - 5 * HOUR
    record(db, "web", lambda at: (9000, 500) if at == peak - peak % 60 + NOW % 60 else (100, 200))
    record(db, "other", lambda at: (1, 900_000))
    start = NOW - DAY

    (web,) = usage.read_usage(db, start, NOW, NOW, names=["web"], step=usage.step_of(DAY))

    assert (web.name, web.cpu_peak, web.memory_peak) == ("web", 90.0, 500 * KIB)
    assert web.cpu == pytest.approx(1.06, abs=0.1) and web.memory == pytest.approx(200.2 * KIB, abs=200)
    assert web.memory_peak_at is not None and abs(web.memory_peak_at - peak) < 60
    assert len(web.points) == 24
    everything = usage.read_usage(db, start, NOW, NOW, names=None, step=HOUR)
    assert [one.name for one in everything] == ["other", "web"]


def test_longer_ago_the_hours_answer_the_same(db: sqlite3.Connection) -> None:
    record(db, "web", lambda at: (100, 100 if at < NOW - 3 * DAY else 300), days=6)
    retention.roll_up(db, NOW)
    retention.trim(db, NOW)

    (before,) = usage.read_usage(db, NOW - 6 * DAY, NOW - 4 * DAY, NOW, names=["web"], step=6 * HOUR)
    (whole,) = usage.read_usage(db, NOW - 6 * DAY, NOW, NOW, names=["web"], step=DAY)

    assert before.memory == 100 * KIB and before.memory_peak == 100 * KIB
    assert whole.memory == pytest.approx(200 * KIB, rel=0.02) and whole.memory_peak == 300 * KIB
    assert db.execute("SELECT count(*) FROM minute").fetchone()[0] <= 25 * 60 + 1


def test_gaps_and_recreated_containers(db: sqlite3.Connection) -> None:
    record(db, "web", lambda at: None if NOW - 3 * HOUR <= at < NOW - 2 * HOUR else (100, 100))
    new = subject_number(db, "container", "f" * 64, "web")
    db.execute("UPDATE minute SET subject = ? WHERE at >= ?", (new, NOW - HOUR))

    (web,) = usage.read_usage(db, NOW - 6 * HOUR, NOW, NOW, names=["web"], step=HOUR)

    assert [one.at for one in web.points] == [NOW - hour * HOUR for hour in (6, 5, 4, 2, 1)]


def disk(db: sqlite3.Connection, used: Callable[[float], float], days: float) -> usage.Forecast:
    number = subject_number(db, "disk", "/", "/")
    db.execute("UPDATE subject SET total = ? WHERE n = ?", (1_000_000, number))
    hours = [NOW - NOW % HOUR - hour * HOUR for hour in range(int(days * 24) + 1)]
    rows = [(at, number, 60, None, None, int(used((at - NOW) / DAY)), 0) for at in hours]
    db.executemany("INSERT INTO hour VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    (found,) = usage.forecasts(db, NOW)
    return found


def test_a_disk_that_fills_up_is_full_when_the_line_says_so(db: sqlite3.Connection) -> None:
    found = disk(db, lambda day: 600_000 + 20_000 * day + 500 * (day * 24 % 2), days=7)

    assert found.full_in_days == pytest.approx(20, abs=0.5)
    assert found.growth == pytest.approx(20_000 * KIB, rel=0.03)
    assert found.days == pytest.approx(7, abs=0.1)


@pytest.mark.parametrize(
    ("used", "days"),
    [
        (lambda day: 600_000 - 20_000 * day, 7),
        (lambda day: 600_000, 7),
        (lambda day: 600_000 + (300_000 if int(day * 24) % 5 == 0 else 0) + day, 7),
        (lambda day: 600_000 + 20_000 * day, 0.5),
        (lambda day: 600_000 + 10 * day, 7),
    ],
    ids=["shrinks", "constant", "noise", "half a day of history", "full in a hundred years"],
)
def test_no_forecast_without_steady_growth(db: sqlite3.Connection, used: Callable[[float], float], days: float) -> None:
    assert disk(db, used, days).full_in_days is None
