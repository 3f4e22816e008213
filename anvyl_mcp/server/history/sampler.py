"""One sample a minute: cpu and memory of the machine and of each running container, and used space of each disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field

import psutil

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.server.engine.engine import Engine, own_name
from anvyl_mcp.server.file_systems import list_file_systems
from anvyl_mcp.server.history.counters import CounterReader
from anvyl_mcp.server.history.store import MACHINE, subject_number
from anvyl_mcp.server.policy.guardrails import is_hidden

KIB = 1024
DISK_EVERY = 600
"""Seconds between two samples of the disks."""
ADD = "INSERT OR REPLACE INTO minute (at, subject, cpu, memory) VALUES (?, ?, ?, ?)"


@dataclass
class Sample:
    """Figures of one minute: cpu in hundredths of a percent of one core (of the machine: of all), memory in KiB."""

    machine: tuple[int | None, int]
    containers: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    """By full id."""
    names: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name and image by full id."""
    disks: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Used and usable KiB by mount point."""
    engine_answered: bool = True

    def save(self, db: sqlite3.Connection, at: int) -> None:
        """Write the sample of the minute that began at `at`, in seconds."""
        rows: list[tuple[int, int, int | None, int | None]] = [(at, MACHINE, *self.machine)]
        for identity, figures in self.containers.items():
            name, image = self.names[identity]
            rows.append((at, subject_number(db, "container", identity, name, image=image), *figures))
        for mount, (used, total) in self.disks.items():
            number = subject_number(db, "disk", mount, mount)
            db.execute("UPDATE subject SET total = ? WHERE n = ? AND total IS NOT ?", (total, number, total))
            rows.append((at, number, None, used))
        db.executemany(ADD, rows)


class Sampler:
    """Takes samples; cpu shares are of the time since the previous one."""

    def __init__(
        self,
        engine: Engine,
        counters: CounterReader | None = None,
        *,
        slot: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`slot` is held while the engine is asked; it raises `AnvylError` if there is none."""
        self._engine = engine
        self._slot = slot
        self._counters = counters or CounterReader(engine)
        self._before: dict[str, int] = {}
        self._taken = 0.0
        self._machine: tuple[float, float] | None = None
        self._disks_taken: float | None = None

    def take(self, clock: float) -> Sample:
        """Take a sample; `clock` is monotonic, in seconds. An engine that does not answer costs its containers only."""
        sample = Sample(self._measure_machine())
        with suppress(OSError):
            if self._disks_taken is None or clock - self._disks_taken >= DISK_EVERY:
                sample.disks = {
                    text.clean(one.mount): (one.used // KIB, (one.used + one.free) // KIB)
                    for one in list_file_systems()
                }
                self._disks_taken = clock
        try:
            with self._slot():
                self._measure_containers(sample, clock)
        except AnvylError:
            sample.engine_answered = False
        return sample

    def _measure_machine(self) -> tuple[int | None, int]:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # Time of guests is part of user time.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        before, self._machine = self._machine, (total, idle)
        memory = psutil.virtual_memory()
        used = (memory.total - memory.available) // KIB
        if before is None or total <= before[0]:
            return None, used
        return max(0, round(10_000 * (1 - (idle - before[1]) / (total - before[0])))), used

    def _measure_containers(self, sample: Sample, clock: float) -> None:
        listed = {one["Id"]: one for one in self._engine.containers(all=False) if not is_hidden(one)}
        found = self._counters.read(list(listed))
        passed, self._taken = clock - self._taken, clock
        now: dict[str, int] = {}
        for identity, counters in found.items():
            memory = None if counters.memory is None else counters.memory // KIB
            sample.containers[identity] = (self._share(identity, counters.cpu, passed), memory)
            sample.names[identity] = (
                text.one_line(own_name(listed[identity])),
                text.one_line(listed[identity]["Image"]),
            )
            if counters.cpu is not None:
                now[identity] = counters.cpu
        self._before = now

    def _share(self, identity: str, cpu: int | None, passed: float) -> int | None:
        """Hundredths of a percent of one core; None for the first sample. A container started anew begins at zero."""
        before: Mapping[str, int] = self._before
        if cpu is None or identity not in before or passed <= 0:
            return None
        used = cpu - before[identity]
        return round((used if used >= 0 else cpu) / passed / 100)
