"""What containers use: all of them at once, with as little waiting as the engine allows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from docker.utils import version_gte

from anvyl_mcp import text
from anvyl_mcp.errors import AnvylError, Conflict, NotFound
from anvyl_mcp.server.engine import Engine, own_name
from anvyl_mcp.server.guardrails import hidden
from anvyl_mcp.server.tool import Bytes, Injected, Percent, Row
from anvyl_mcp.server.translate import engine_errors

FAST_SINCE = "1.44"
"""API since which one sample comes at once (Docker 25); before, the engine waits a second for it."""
ONE_SHOT_SINCE = "1.41"
APART = 0.5
YOUNGEST, OLDEST = 1.0, 60.0
"""Seconds between which the age of a kept sample must be to compare with."""
AT_ONCE = 128
"""An older engine takes one to two seconds for each sample, so that a second round would double the time."""
PATIENCE = 15
"""Seconds for one sample: with so many at once a small machine's engine needs a while for the last."""
SHOWN = 60
"""Rows in the text form."""

Raw = Mapping[str, Any]


class ContainerStats(Row):
    """What one container uses."""

    columns = ("name", "cpu_percent", "memory_used", "memory_limit", "net_rx", "net_tx", "pids")

    name: str
    cpu_percent: Percent
    memory_used: Bytes
    memory_limit: Bytes
    net_rx: Bytes
    net_tx: Bytes
    block_read: Bytes
    block_write: Bytes
    pids: int


@dataclass(frozen=True, slots=True)
class _Sample:
    taken: float
    raw: Raw


class Samples(Injected):
    """The last sample of every container, so that the next question needs no second one."""

    def __init__(self) -> None:
        self._kept: dict[str, _Sample] = {}
        self._lock = threading.Lock()

    def usable(self, container: str) -> Raw | None:
        """The kept sample, when it is old enough to compare with and not too old."""
        kept = self._kept.get(container)
        return kept.raw if kept and YOUNGEST <= time.monotonic() - kept.taken <= OLDEST else None

    def keep(self, samples: Mapping[str, Raw]) -> None:
        """Remember these, and forget what is too old."""
        now = time.monotonic()
        with self._lock:
            young = {one: kept for one, kept in self._kept.items() if now - kept.taken <= OLDEST}
            self._kept = young | {container: _Sample(now, raw) for container, raw in samples.items()}


def measure(engine: Engine, samples: Samples, container: Raw | None = None) -> list[ContainerStats]:
    """What one container uses, or each that runs and may be read; the busiest first.

    Raises:
        Conflict: the container does not run.
    """
    if container is None:
        names = {one["Id"]: own_name(one) for one in engine.containers(all=False) if not hidden(one)}
    else:
        names = {container["Id"]: container["Name"].lstrip("/")}
        if not container["State"].get("Running"):
            raise Conflict(f"`{names[container['Id']]}` does not run, so it uses nothing", hint="start it first")
    rows = [_row(names[one], before, now) for one, (before, now) in _pairs(engine, samples, list(names)).items()]
    return sorted(rows, key=lambda row: (-row.cpu_percent, -row.memory_used, row.name))


def _pairs(engine: Engine, samples: Samples, containers: list[str]) -> dict[str, tuple[Raw, Raw]]:
    """Two samples of each container that still runs."""
    earlier = {one: raw for one in containers if (raw := samples.usable(one)) is not None}
    one_shot = _worth_one_shot(engine, compared=len(earlier) == len(containers))
    first = _round(engine, containers, one_shot=one_shot or None)
    found = {one: (before, raw) for one, raw in first.items() if (before := earlier.get(one) or _own_earlier(raw))}
    # Podman says that it took two, and takes one.
    alone = [one for one in first if one not in found]
    second: dict[str, Raw] = {}
    if alone:
        time.sleep(APART)
        second = _round(engine, alone, one_shot=one_shot or None)
    samples.keep(first | second)
    return found | {one: (first[one], raw) for one, raw in second.items()}


def _own_earlier(raw: Raw) -> Raw | None:
    """The sample that the engine took before this one, where it did."""
    before = raw.get("precpu_stats") or {}
    return {"cpu_stats": before} if before.get("system_cpu_usage") else None


def _worth_one_shot(engine: Engine, *, compared: bool) -> bool:
    """An older engine takes a second for one sample too, and two for a pair: only good when all have an earlier one."""
    with engine_errors():
        version = str(engine.client().api_version)
    return version_gte(version, ONE_SHOT_SINCE if compared else FAST_SINCE)


def _round(engine: Engine, containers: Iterable[str], *, one_shot: bool | None) -> dict[str, Raw]:
    """One sample of each container, all asked for at once; without those that ended meanwhile."""
    asked = list(containers)
    if not asked:
        return {}
    with ThreadPoolExecutor(min(AT_ONCE, len(asked)), "stats") as pool:
        taken = zip(asked, pool.map(partial(_sample, engine, one_shot), asked), strict=True)
        return {one: raw for one, raw in taken if raw and (raw.get("cpu_stats") or {}).get("system_cpu_usage")}


def _sample(engine: Engine, one_shot: bool | None, container: str) -> Raw | None:
    def gone() -> AnvylError:
        return NotFound("it is gone")

    try:
        with engine_errors(missing=gone):
            return cast("Raw", engine.client(PATIENCE).stats(container, stream=False, one_shot=one_shot))
    except (NotFound, Conflict):
        return None


def _row(name: str, before: Raw, now: Raw) -> ContainerStats:
    memory = now.get("memory_stats") or {}
    networks = (now.get("networks") or {}).values()
    return ContainerStats(
        name=name,
        cpu_percent=_cpu_percent(before.get("cpu_stats") or {}, now["cpu_stats"]),
        memory_used=_memory_used(memory),
        memory_limit=memory.get("limit", 0),
        net_rx=sum(one.get("rx_bytes", 0) for one in networks),
        net_tx=sum(one.get("tx_bytes", 0) for one in networks),
        block_read=_moved(now, "read"),
        block_write=_moved(now, "write"),
        pids=(now.get("pids_stats") or {}).get("current", 0),
    )


def _cpu_percent(before: Raw, now: Raw) -> float:
    """As the Docker command line counts it: 100 for each core that is busy."""
    usage, used_before = now["cpu_usage"], (before.get("cpu_usage") or {}).get("total_usage", 0)
    used = usage["total_usage"] - used_before
    passed = now["system_cpu_usage"] - before.get("system_cpu_usage", 0)
    cores = now.get("online_cpus") or len(usage.get("percpu_usage") or ()) or 1
    return round(used / passed * cores * 100, 2) if used > 0 and passed > 0 else 0.0


def _memory_used(memory: Raw) -> int:
    """Without the files that the kernel only keeps because there is room."""
    usage, details = int(memory.get("usage", 0)), memory.get("stats") or {}
    cached = int(details.get("total_inactive_file", details.get("inactive_file", 0)))
    return usage - cached if cached < usage else usage


def lines(rows: Sequence[ContainerStats]) -> Iterator[str]:
    """The busiest in few words: what every row would repeat stands in the heading."""
    most = max(row.memory_limit for row in rows)
    yield f"name cpu memory (limit {_short(most)} unless said) net in/out pids"
    for row in rows[:SHOWN]:
        limit = f"/{_short(row.memory_limit)}" if row.memory_limit != most else ""
        memory, network = f"{_short(row.memory_used)}{limit}", f"{_short(row.net_rx)}/{_short(row.net_tx)}"
        yield f"{row.name} {row.cpu_percent:.0f}% {memory} {network} {row.pids}"
    if len(rows) > SHOWN:
        yield f"… {len(rows) - SHOWN} more that use less; ask for one by `name`"


def _short(count: int) -> str:
    return text.size(count).replace("iB", "").replace(" ", "")


def _moved(now: Raw, operation: str) -> int:
    entries = (now.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    return sum(int(entry["value"]) for entry in entries if entry["op"].lower() == operation)
