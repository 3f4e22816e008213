"""Cpu time and memory of running containers: from their control groups, or else from the engine.

The engine needs milliseconds for each container and its files a tenth of one, so the files are read where they are: on
a Linux machine whose engine runs next to this process. Both kernels' layouts are known, v1 and v2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.server.engine import stats
from anvyl_mcp.server.engine.compat import mapping, number
from anvyl_mcp.server.engine.engine import Engine

CGROUPS = Path("/sys/fs/cgroup")
USUAL_PLACES = ("system.slice/docker-{0}.scope", "docker/{0}", "machine.slice/libpod-{0}.scope")
"""Where engines put the control group of a container: the systemd driver, the cgroupfs driver, Podman."""
CONTROLLERS_V1 = ("cpuacct", "cpu,cpuacct")
THREADS = 8
"""No caller waits for a sample, so it need not ask for all containers at once."""
FULL_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Counters:
    """Cpu time since the start in microseconds, and memory without the page cache in bytes; None if unknown."""

    cpu: int | None
    memory: int | None


class CounterReader:
    """Reads the counters of containers, and remembers where their files are."""

    def __init__(self, engine: Engine, *, root: Path = CGROUPS) -> None:
        self._engine = engine
        self._root = root
        self._readers: dict[str, Callable[[], Counters] | None] = {}

    def read(self, containers: Sequence[str]) -> dict[str, Counters]:
        """Counters of running containers by full id; without those that have ended.

        Raises:
            AnvylError: the engine does not answer for those without files.
        """
        self._readers = {one: reader for one, reader in self._readers.items() if one in set(containers)}
        found: dict[str, Counters] = {}
        for container in containers:
            if container not in self._readers:
                self._readers[container] = self._locate(container)
            if reader := self._readers[container]:
                try:
                    found[container] = reader()
                except (OSError, ValueError, IndexError):
                    del self._readers[container]  # it ended, or was started anew elsewhere
        elsewhere = [one for one in containers if one not in found]
        return found | (self._ask_engine(elsewhere) if elsewhere else {})

    def _locate(self, container: str) -> Callable[[], Counters] | None:
        """The function that reads the files of a container; None if they are not on this machine."""
        if not FULL_ID.fullmatch(container) or not self._root.is_dir():
            return None
        for place in [*USUAL_PLACES, *self._place_of_process(container)]:
            path = place.format(container)
            if (unified := self._root / path).joinpath("cpu.stat").is_file() and (unified / "memory.current").is_file():
                return lambda: _read_v2(unified)
            for controller in CONTROLLERS_V1:
                cpu, memory = self._root / controller / path, self._root / "memory" / path
                if (cpu / "cpuacct.usage").is_file() and (memory / "memory.usage_in_bytes").is_file():
                    return lambda cpu=cpu, memory=memory: _read_v1(cpu, memory)  # type: ignore[misc]  # no defaults
        return None

    def _place_of_process(self, container: str) -> list[str]:
        """Control groups of the container's first process, if it runs on this machine."""
        with suppress(OSError, AnvylError, KeyError):
            process = self._engine.inspect(container)["State"]["Pid"]
            lines = Path(f"/proc/{process}/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
            paths = {line.split(":", 2)[2].lstrip("/") for line in lines if line.count(":") >= 2}
            # The process id of another machine may belong to some other process here.
            return [path for path in paths if container in path and ".." not in path and "{" not in path]
        return []

    def _ask_engine(self, containers: Sequence[str]) -> dict[str, Counters]:
        return {
            one: _from_stats(raw)
            for one, raw in stats.sample_all(self._engine, containers, one_shot=True, threads=THREADS).items()
            if raw
        }


def _read_v2(group: Path) -> Counters:
    usage = _field(_text(group / "cpu.stat"), "usage_usec")
    current = int(_text(group / "memory.current"))
    return Counters(usage, max(0, current - (_field(_text(group / "memory.stat"), "inactive_file") or 0)))


def _read_v1(cpu: Path, memory: Path) -> Counters:
    current = int(_text(memory / "memory.usage_in_bytes"))
    cached = _field(_text(memory / "memory.stat"), "total_inactive_file") or 0
    return Counters(int(_text(cpu / "cpuacct.usage")) // 1000, max(0, current - cached))


def _text(file: Path) -> str:
    return file.read_text(encoding="ascii")


def _field(lines: str, name: str) -> int | None:
    start = 0 if lines.startswith(f"{name} ") else lines.find(f"\n{name} ") + 1
    if start == 0 and not lines.startswith(f"{name} "):
        return None
    return int(lines[start:].split("\n", 1)[0].split()[1])


def _from_stats(raw: Mapping[str, object]) -> Counters:
    total = number(mapping(mapping(raw.get("cpu_stats")).get("cpu_usage")).get("total_usage"))
    return Counters(None if total is None else total // 1000, stats.memory_used(mapping(raw.get("memory_stats"))))
