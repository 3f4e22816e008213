"""Measure the history of a host: bytes a day, the cost of its sampler, and how fast it answers.

    python benchmarks/history.py                       database only: bytes a day, answers from 200,000 rows
    DOCKER_HOST=unix:///a.sock python benchmarks/history.py --containers 50 200 --image busybox:latest

With `--containers` it starts so many containers named `anvyl-bench-…`, takes samples, compares their cpu time, of this
process and of the engine, with that of one `docker stats --no-stream`, and removes the containers again.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import psutil

from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.history import queries, recording, retention, usage
from anvyl_mcp.server.history.counters import CounterReader
from anvyl_mcp.server.history.engine_events import EngineEvent
from anvyl_mcp.server.history.episodes import episodes
from anvyl_mcp.server.history.queries import Period
from anvyl_mcp.server.history.sampler import Sample, Sampler
from anvyl_mcp.server.history.store import MICROSECOND, HistoryStore, subject_number

PREFIX = "anvyl-bench-"
DAY, HOUR = 86400, 3600
NOW = int(time.time()) // 60 * 60


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--containers", type=int, nargs="*", default=[])
    parser.add_argument("--image", default="busybox:latest")
    parser.add_argument("--samples", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_size(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        measure_answers(Path(folder))
    for count in options.containers:
        measure_sampler(count, options.image, options.samples)


def show(what: str, figure: str) -> None:
    """Print one row."""
    sys.stdout.write(f"{what:64} {figure}\n")
    sys.stdout.flush()


def measure_size(folder: Path) -> None:
    """A day of 50 containers, with 300 events and 20 deaths, and how much a month of them adds."""
    store, sizes = HistoryStore(folder), []
    for day in range(3):
        record_day(store, NOW - (3 - day) * DAY)
        store.write(lambda db, end=NOW - (2 - day) * DAY: (retention.roll_up(db, end), retention.trim(db, end)))
        sizes.append(store.read(retention.used_bytes))
    show("a day of 50 containers, minutes, hours, events and logs", f"{sizes[0] / 1e6:.2f} MB")
    show("what each further day adds", f"{(sizes[2] - sizes[1]) / 1e6:.3f} MB")
    show("50 containers after 90 days, estimated", f"{(sizes[2] + 87 * (sizes[2] - sizes[1])) / 1e6:.1f} MB")


def record_day(store: HistoryStore, start: int) -> None:
    """Record a day, a transaction a minute as the recorder does."""
    names = {f"{number:064x}": (f"container-{number}", "nginx:1.27") for number in range(50)}
    for minute in range(1440):
        at = start + minute * 60
        figures = {one: (random.randrange(20_000), random.randrange(50_000, 500_000)) for one in names}
        sample = Sample((random.randrange(10_000), random.randrange(10**7)), figures, names)
        if minute % 10 == 0:
            sample.disks = {"/": (random.randrange(10**8), 2 * 10**8), "/data": (random.randrange(10**8), 2 * 10**8)}
        store.write(lambda db, sample=sample, at=at: sample.save(db, at))
    for number in range(300):
        one = f"{number % 50:064x}"
        action = ("start", "die", "stop", "kill", "create", "health_status")[number % 6]
        event = EngineEvent((start + number * 280) * MICROSECOND, "container", one, names[one][0], action, 137)
        added = store.write(lambda db, event=event: recording.add_event(db, event))
        if added and number % 15 == 1:
            lines = [
                f'2026-11-29T03:{line:02}:00Z level=info msg="request {random.random()}" path=/' for line in range(50)
            ]
            import zlib

            packed = zlib.compress("\n".join(lines).encode(), 9)
            store.write(lambda db, e=event, n=added, p=packed: recording._keep_lines(db, e, n, p))


def measure_answers(folder: Path) -> None:
    """Answers from 200,000 samples and 200,000 events."""
    store = HistoryStore(folder)

    def fill(db: sqlite3.Connection) -> None:
        numbers = [subject_number(db, "container", f"{n:064x}", f"container-{n}", image="nginx") for n in range(138)]
        minutes = range(NOW - 1440 * 60, NOW, 60)
        db.executemany(
            "INSERT INTO minute VALUES (?, ?, ?, ?)", [(at, n, 100, 5000) for at in minutes for n in numbers]
        )
        rows = []
        for number in range(200_000):
            at = (NOW - 89 * DAY) * MICROSECOND + number * (89 * DAY * MICROSECOND // 200_000)
            rows.append((at, numbers[number % 138], ("kill", "die", "stop", "start")[number // 138 % 4], 0))
        db.executemany("INSERT INTO event (at, subject, action, code) VALUES (?, ?, ?, ?)", rows)

    store.write(fill)
    day, ever = Period((NOW - DAY) * MICROSECOND, 2**62), Period(0, 2**62)

    def one_name(period: Period) -> Callable[[sqlite3.Connection], object]:
        return lambda db: episodes(queries.read_events(db, period, queries.find_subjects(db, "container-7")))

    timed: dict[str, Callable[[sqlite3.Connection], object]] = {
        "who stopped container-7: a day of 200,000 events": one_name(day),
        "container-7: all 90 days": one_name(ever),
        "what changed: a day of 200,000 events": lambda db: episodes(queries.read_events(db, day)),
        "what changed: all 90 days (the newest 10,000)": lambda db: episodes(queries.read_events(db, ever)),
        "usage of container-7: a day, 200,000 samples": lambda db: usage.read_usage(
            db, NOW - DAY, NOW, NOW, names=["container-7"], step=HOUR
        ),
        "usage of all 138 containers: a day, 200,000 samples": lambda db: usage.read_usage(
            db, NOW - DAY, NOW, NOW, names=None, step=HOUR
        ),
    }
    for what, work in timed.items():
        store.read(work)
        began = time.process_time()
        for _ in range(5):
            store.read(work)
        show(what, f"{(time.process_time() - began) / 5 * 1000:.0f} ms")


def measure_sampler(count: int, image: str, samples: int) -> None:
    """Cpu time of a sample: from control groups, from the engine, and of `docker stats`."""
    with running(count, image) as api, tempfile.TemporaryDirectory() as folder:
        engine, store = Engine(), HistoryStore(Path(folder))
        daemon = engine_process(api)
        for what, root in (("control groups", Path("/sys/fs/cgroup")), ("the engine", Path("/nonexistent"))):
            sampler = Sampler(engine, CounterReader(engine, root=root))
            sampler.take(time.monotonic())
            before, others = cpu_of(psutil.Process()), cpu_of(daemon)
            for number in range(samples):
                sample = sampler.take(time.monotonic())
                store.write(lambda db, one=sample, at=NOW + number * 60: one.save(db, at))
            mine = (cpu_of(psutil.Process()) - before) / samples
            theirs = (cpu_of(daemon) - others) / samples
            assert len(sample.containers) == count
            show(f"{count} containers, a sample a minute from {what}", share(mine, theirs))
        before, others = children_cpu(), cpu_of(daemon)
        subprocess.run(["docker", "stats", "--no-stream"], stdout=subprocess.DEVNULL, check=True)
        show(
            f"{count} containers, `docker stats --no-stream` once a minute",
            share(children_cpu() - before, cpu_of(daemon) - others),
        )
        engine.close()


def share(mine: float, theirs: float) -> str:
    """Cpu time of one minute's sample as a share of a core."""
    return f"{mine * 1000:.0f} ms + engine {theirs * 1000:.0f} ms: {mine / 60:.2%} + {theirs / 60:.2%} of a core"


def cpu_of(process: psutil.Process | None) -> float:
    """Cpu seconds of a process; 0 if it is unknown."""
    return sum(process.cpu_times()[:2]) if process else 0.0


def children_cpu() -> float:
    """Cpu seconds of ended child processes."""
    times = os.times()
    return times.children_user + times.children_system


def engine_process(api: docker.APIClient) -> psutil.Process | None:
    """The engine's process, found by its data folder among the arguments, or as the only one."""
    root = str(api.info()["DockerRootDir"])
    found = [one for one in psutil.process_iter(["name", "cmdline"]) if one.info["name"] == "dockerd"]
    own = [one for one in found if any(root in word for word in one.info["cmdline"] or ())]
    return (own or found or [None])[0]


@contextmanager
def running(count: int, image: str) -> Iterator[docker.APIClient]:
    """So many running containers."""
    api = docker.from_env(timeout=120).api
    names = [f"{PREFIX}{number}" for number in range(count)]
    try:
        for name in names:
            made = api.create_container(
                image, ["sleep", "3600"], name=name, host_config=api.create_host_config(network_mode="none")
            )
            api.start(made["Id"])
        yield api
    finally:
        for name in names:
            api.remove_container(name, force=True)
        api.close()


if __name__ == "__main__":
    main()
