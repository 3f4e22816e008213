"""The database of the history: private, bounded, and never the reason why something else fails."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.server.history import queries, recording, retention
from anvyl_mcp.server.history.engine_events import EngineEvent
from anvyl_mcp.server.history.queries import Period
from anvyl_mcp.server.history.recorder import Recorder
from anvyl_mcp.server.history.sampler import Sample
from anvyl_mcp.server.history.store import MICROSECOND, HistoryStore, subject_number

ROOT = Path(__file__).parents[3]
NOON = 1_790_000_040.0
"""A moment in 2026, at a full minute."""
DAY = 86400
EVER = Period(0, 2**62)


def event(at: float, action: str = "start", *, name: str = "web", code: int | None = None) -> EngineEvent:
    return EngineEvent(int(at * MICROSECOND), "container", name * 16, name, action, code)


def count(store: HistoryStore, table: str) -> int:
    return int(store.read(lambda db: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]))


class SteadySampler:
    """A sampler whose figures are always the same."""

    def take(self, clock: float) -> Sample:
        del clock
        web = "w" * 64
        return Sample((1000, 2048), {web: (500, 1024)}, {web: ("web", "nginx")}, {"/": (5, 10)})


class Clocks:
    """A wall clock and a monotonic one that tests move."""

    def __init__(self) -> None:
        self.wall, self.steady = NOON, 0.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def recorder(self, store: HistoryStore) -> Recorder:
        return Recorder(
            None,  # type: ignore[arg-type]  # ticks ask no engine
            store,
            clock=lambda: self.wall,
            monotonic=lambda: self.steady,
            sampler=SteadySampler(),  # type: ignore[arg-type]  # as far as it is used
        )


@pytest.fixture
def store(tmp_path: Path) -> HistoryStore:
    return HistoryStore(tmp_path / "history")


def test_the_files_are_private(store: HistoryStore) -> None:
    store.write(lambda db: recording.add_event(db, event(NOON)))

    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in store.folder.iterdir()} == {0o600}


def test_an_event_is_recorded_once_and_health_only_when_it_changes(store: HistoryStore) -> None:
    for _ in range(2):
        store.write(lambda db: recording.add_event(db, event(NOON)))
    for second, state in enumerate(("healthy", "healthy", "unhealthy", "unhealthy", "healthy")):
        one = EngineEvent(
            int((NOON + second) * MICROSECOND), "container", "w" * 64, "web", "health_status", detail=state
        )
        store.write(lambda db, one=one: recording.add_event(db, one))  # type: ignore[misc]  # bound in the loop

    assert count(store, "event") == 1 + 3


def test_events_from_before_what_a_container_shows_are_still_asked_for(store: HistoryStore) -> None:
    """Regression: a container created during the catch-up had a start, but its creation was never recorded."""
    shown = {
        "Id": "w" * 64,
        "Name": "/web",
        "Config": {"Image": "nginx", "Labels": None},
        "State": {"Running": True, "StartedAt": datetime.fromtimestamp(NOON + 9, UTC).isoformat()},
    }
    store.write(lambda db: recording.add_event(db, event(NOON, "create", name="early")))
    early = {**shown, "Id": "early" * 16, "Name": "/early", "State": {"Running": False}}
    store.write(lambda db: recording.reconcile(db, int((NOON + 10) * MICROSECOND), [early, shown]))

    assert count(store, "event") == 2
    assert store.read(recording.last_event_time) == int(NOON * MICROSECOND)


def test_a_damaged_file_is_set_aside_with_one_warning(store: HistoryStore, caplog: pytest.LogCaptureFixture) -> None:
    store.write(lambda db: recording.add_event(db, event(NOON)))
    store.close()
    store.path.write_bytes(b"this is no database " * 500)
    for suffix in ("-wal", "-shm"):
        store.path.with_name(store.path.name + suffix).unlink(missing_ok=True)
    after = HistoryStore(store.folder)

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            after.write(lambda db: recording.add_event(db, event(NOON)))

    assert [record.levelname for record in caplog.records] == ["WARNING"] and "damaged" in caplog.text
    assert count(after, "event") == 1
    assert after.damaged.startswith("history.db.bad-") and (store.folder / after.damaged).exists()


def test_a_folder_that_cannot_be_used_costs_history_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "history").write_text("a file where the folder should be", encoding="utf-8")
    store = HistoryStore(tmp_path / "history")

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert store.write(lambda db: recording.add_event(db, event(NOON))) is None

    assert store.trouble.startswith("history is not recorded") and len(caplog.records) == 1
    with pytest.raises(AnvylError, match="the history cannot be read"):
        store.read(queries.kept_since)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk_pauses_history_until_there_is_room(tmp_path: Path) -> None:
    folder = tmp_path / "history"
    folder.mkdir()
    inside = 'mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@"'
    program = f"from tests.server.history.test_store import fill_the_disk; fill_the_disk({str(folder)!r})"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inside, str(folder), sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


def fill_the_disk(folder: str) -> None:
    """Record while a disk fills up, and again after it was freed."""
    store, filler, recorded = HistoryStore(Path(folder)), Path(folder) / "filler", 0
    for step, left in enumerate([None, 300, 100, 8, 0, 0, None, 0, None]):
        filler.unlink(missing_ok=True)
        if left is not None:
            disk = os.statvfs(folder)
            filler.write_bytes(os.urandom(max(0, disk.f_bfree * disk.f_frsize - left * 1024)))
        number = store.write(lambda db, step=step: recording.add_event(db, event(NOON + step)))  # type: ignore[misc]
        recorded += number is not None
        assert (number is None) == bool(store.trouble)
        assert number or left is not None
        assert count(store, "event") == recorded
    assert recorded < 9
    assert store.read(lambda db: db.execute("PRAGMA integrity_check").fetchone()[0]) == "ok"


def test_a_killed_writer_leaves_a_sound_database(tmp_path: Path) -> None:
    program = (
        f"from tests.server.history.test_store import record_forever; record_forever({str(tmp_path / 'history')!r})"
    )
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)

    store = HistoryStore(tmp_path / "history")
    assert store.read(lambda db: db.execute("PRAGMA integrity_check").fetchone()[0]) == "ok"
    assert count(store, "event") >= 2 * 200
    assert store.damaged == ""


def record_forever(folder: str) -> None:
    """Record events without end, and say so after some."""
    store = HistoryStore(Path(folder))
    begin = store.read(recording.last_event_time) / MICROSECOND or NOON
    for number in range(1, 1_000_000):
        store.write(lambda db: recording.add_event(db, event(begin + number)))  # noqa: B023  used at once
        if number == 200:
            print("going", flush=True)  # noqa: T201  the parent waits for it


def test_minutes_are_kept_for_a_day_hours_for_a_month_and_events_for_three(store: HistoryStore) -> None:
    clocks = Clocks()
    recorder = clocks.recorder(store)
    for hour in range(100 * 24):
        # Two samples an hour are enough for a sum, and none are kept of the first two months.
        for _ in range(2):
            if hour < 24 or hour > 60 * 24:
                recorder.tick()
            clocks.pass_(1800)
        store.write(lambda db, at=clocks.wall: recording.add_event(db, event(at)))  # type: ignore[misc]
        assert hour or count(store, "minute")

    def age(table: str) -> float:
        return store.read(lambda db: clocks.wall - float(db.execute(f"SELECT min(at) FROM {table}").fetchone()[0]))

    ages = {table: age(table) for table in ("minute", "hour")}
    oldest = store.read(lambda db: clocks.wall - db.execute("SELECT min(at) FROM event").fetchone()[0] / MICROSECOND)

    assert DAY <= ages["minute"] <= 27 * 3600
    assert 29.9 * DAY <= ages["hour"] <= 30.2 * DAY
    assert 89.9 * DAY <= oldest <= 90.2 * DAY
    assert count(store, "hour") == pytest.approx(30 * 24 * 3, rel=0.02)  # the machine, web and a disk
    row = store.read(
        lambda db: db.execute("SELECT samples, cpu, cpu_peak, memory FROM hour WHERE subject = 0").fetchone()
    )
    assert row == (2, 1000, 1000, 2048)


def test_a_wrong_date_deletes_nothing_and_begins_a_new_span(store: HistoryStore) -> None:
    clocks = Clocks()
    recorder = clocks.recorder(store)
    store.write(lambda db: recording.add_event(db, event(NOON)))
    for _ in range(15):
        recorder.tick()
        clocks.pass_(60)
    clocks.wall += 400 * DAY
    for _ in range(5):
        recorder.tick()
        clocks.pass_(60)
    clocks.wall -= 400 * DAY
    recorder.tick()

    assert count(store, "event") == 1
    assert count(store, "span") == 3
    jumps = store.read(lambda db: db.execute("SELECT seconds FROM jump ORDER BY n").fetchall())
    assert jumps == [(400 * DAY,), (-400 * DAY,)]
    period = Period(0, int((clocks.wall + DAY) * MICROSECOND))
    assert store.read(lambda db: queries.gaps(db, period, recording=True)) == [], "the server was never off"


def test_a_machine_that_slept_has_a_gap_and_its_clock_was_not_set(store: HistoryStore) -> None:
    clocks = Clocks()
    recorder = clocks.recorder(store)
    for pause in (60, 8 * 3600, 60, 0):
        recorder.tick()
        clocks.pass_(pause)
    now = int(clocks.wall * MICROSECOND)

    (gap,) = store.read(lambda db: queries.gaps(db, Period(0, now), recording=True))
    assert (gap.end - gap.start) // MICROSECOND == 8 * 3600
    assert count(store, "jump") == 0


def test_gaps_are_known(store: HistoryStore) -> None:
    clocks = Clocks()
    for pause in (600, 90, 7200, 0):
        recorder = clocks.recorder(store)
        for _ in range(3):
            recorder.tick()
            clocks.pass_(60)
        clocks.pass_(pause)
    now = int(clocks.wall * MICROSECOND)

    found = store.read(lambda db: queries.gaps(db, Period(0, now), recording=True))
    lengths = [(gap.end - gap.start) // MICROSECOND for gap in found]
    assert lengths == [660, 7260]
    assert len(store.read(lambda db: queries.gaps(db, Period(now - MICROSECOND, now), recording=False))) == 0
    later = now + 600 * MICROSECOND
    assert store.read(lambda db: queries.gaps(db, Period(now, later), recording=False))[-1].end == later
    assert store.read(queries.kept_since) == int(NOON * MICROSECOND)


def test_too_much_history_gives_way_oldest_first(store: HistoryStore) -> None:
    def fill(db: sqlite3.Connection) -> None:
        numbers = [subject_number(db, "container", f"{n}" * 64, f"c{n}") for n in range(10)]
        rows = [(int(NOON) + minute * 60, number, 1, 2) for minute in range(3000) for number in numbers]
        db.executemany("INSERT INTO minute VALUES (?, ?, ?, ?)", rows)

    store.write(fill)
    before = store.read(retention.used_bytes)
    most = before // 2
    store.write(lambda db: retention.limit_size(db, most))

    assert store.read(retention.used_bytes) <= most
    first, last = store.read(lambda db: db.execute("SELECT min(at), max(at) FROM minute").fetchone())
    assert first > NOON and last == int(NOON) + 2999 * 60


def test_a_program_that_floods_the_engine_does_not_push_out_everything(
    store: HistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MAX_EVENTS_A_DAY", 50)
    for number in range(100):
        store.write(lambda db, n=number: recording.add_event(db, event(NOON + n)))  # type: ignore[misc]
    store.write(lambda db: recording.add_event(db, event(NOON + DAY)))

    assert count(store, "event") == 51
