"""Resource usage of containers, sampled in parallel."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from docker.utils import version_gte

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Conflict, EngineError, EngineMissing, NotFound, Timeout
from anvyl_mcp.server.engine.compat import EngineObject, mapping, number, objects, require_object, string
from anvyl_mcp.server.engine.engine import Engine, own_name
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.engine.timestamps import to_nanoseconds
from anvyl_mcp.server.policy.guardrails import is_hidden
from anvyl_mcp.server.tool import Injected, KnownBytes, KnownPercent, Row

FAST_SINCE = "1.44"
"""API since which a single sample is immediate (Docker 25); before, the engine takes a second for it."""
ONE_SHOT_SINCE = "1.41"
SAMPLE_INTERVAL = 0.5
MIN_SAMPLE_AGE, MAX_SAMPLE_AGE = 1.0, 60.0
"""Age in seconds of a cached sample that can be compared with a new one."""
MAX_THREADS = 128
"""An older engine takes one to two seconds per sample, so a second batch would double the time."""
SAMPLE_TIMEOUT = 15
"""Seconds for one sample; with many in parallel, the engine of a small machine is slow."""
MAX_ROWS = 60
"""Rows in the text form."""


class ContainerStats(Row):
    """Usage of one container; null where the engine reports nothing."""

    columns = ("name", "cpu_percent", "memory_used", "memory_limit", "net_rx", "net_tx", "pids")

    name: str
    cpu_percent: KnownPercent
    memory_used: KnownBytes
    memory_limit: KnownBytes
    net_rx: KnownBytes
    net_tx: KnownBytes
    block_read: KnownBytes
    block_write: KnownBytes
    pids: int | None

    @property
    def has_figures(self) -> bool:
        """Whether the engine reports cpu or memory usage."""
        return self.cpu_percent is not None or self.memory_used is not None


@dataclass(frozen=True, slots=True)
class _Sample:
    taken: float
    raw: EngineObject


class SampleCache(Injected):
    """Cache of the last sample of each container, which saves the next call a second one."""

    def __init__(self) -> None:
        self._kept: dict[str, _Sample] = {}
        self._lock = threading.Lock()

    def get(self, container: str) -> EngineObject | None:
        """The cached sample, if its age is right for a comparison."""
        kept = self._kept.get(container)
        return kept.raw if kept and MIN_SAMPLE_AGE <= time.monotonic() - kept.taken <= MAX_SAMPLE_AGE else None

    def store(self, samples: Mapping[str, EngineObject]) -> None:
        """Cache these samples and drop those that are too old."""
        now = time.monotonic()
        with self._lock:
            young = {one: kept for one, kept in self._kept.items() if now - kept.taken <= MAX_SAMPLE_AGE}
            self._kept = young | {container: _Sample(now, raw) for container, raw in samples.items()}


def measure_usage(engine: Engine, samples: SampleCache, names: Mapping[str, str] | None = None) -> list[ContainerStats]:
    """Usage of running containers, the busiest first. `names`: by id; by default all that are not hidden."""
    if names is None:
        names = {one["Id"]: own_name(one) for one in engine.containers(all=False) if not is_hidden(one)}
    rows = [_row(names[one], before, now) for one, (before, now) in _sample_pairs(engine, samples, list(names)).items()]
    return sorted(rows, key=lambda row: (-(row.cpu_percent or 0), -(row.memory_used or 0), row.name))


def measure_one(engine: Engine, samples: SampleCache, container: EngineObject) -> list[ContainerStats]:
    """Usage of one inspected container.

    Raises:
        Conflict: it is not running.
        NotFound: it no longer exists.
    """
    name, state = container["Name"].lstrip("/"), container["State"]["Status"]
    if not container["State"].get("Running") and state != "restarting":
        raise Conflict(f"`{name}` is not running ({state}), so it has no usage", hint="start it first")
    if rows := measure_usage(engine, samples, {container["Id"]: name}):
        return rows
    raise engine.missing_container(name)


def _sample_pairs(
    engine: Engine, samples: SampleCache, containers: list[str]
) -> dict[str, tuple[EngineObject, EngineObject]]:
    """Two samples of each container that still exists; both are empty if the engine reports nothing."""
    earlier = {one: raw for one in containers if (raw := samples.get(one)) is not None}
    one_shot = _use_one_shot(engine, compared=len(earlier) == len(containers))
    first = sample_all(engine, containers, one_shot=one_shot or None)
    found = {one: (before, raw) for one, raw in first.items() if (before := earlier.get(one) or _embedded_sample(raw))}
    # Podman claims to return two samples, but takes one.
    alone = [one for one, raw in first.items() if one not in found and _system_usage(raw)]
    second: dict[str, EngineObject] = {}
    if alone:
        time.sleep(SAMPLE_INTERVAL)
        second = sample_all(engine, alone, one_shot=one_shot or None)
    samples.store({one: raw for one, raw in (first | second).items() if _system_usage(raw)})
    compared = found | {one: (first[one], raw) for one, raw in second.items()}
    return {one: compared.get(one, (raw, raw)) for one, raw in first.items()}


def _embedded_sample(raw: EngineObject) -> EngineObject | None:
    """The earlier sample that the engine included, or None."""
    before = {"cpu_stats": mapping(raw.get("precpu_stats")), "read": raw.get("preread")}
    return before if _system_usage(before) or (raw.get("num_procs") and before["read"]) else None


def _system_usage(raw: EngineObject) -> int | None:
    """The machine's total cpu time, the base of a container's share; Windows reports none."""
    return number(mapping(raw.get("cpu_stats")).get("system_cpu_usage")) or None


def _use_one_shot(engine: Engine, *, compared: bool) -> bool:
    """Whether to ask for single samples; on an older engine that only pays if all containers have a cached one."""
    with engine_errors():
        version = str(engine.client().api_version)
    return version_gte(version, ONE_SHOT_SINCE if compared else FAST_SINCE)


def sample_all(
    engine: Engine, containers: Iterable[str], *, one_shot: bool | None, threads: int = MAX_THREADS
) -> dict[str, EngineObject]:
    """One sample of each container, requested in parallel; without containers removed in the meantime.

    Raises:
        AnvylError: every sample failed.
    """
    ids = list(containers)
    if not ids:
        return {}
    with ThreadPoolExecutor(min(threads, len(ids)), "stats") as pool:
        taken = dict(zip(ids, pool.map(partial(_sample, engine, one_shot), ids), strict=True))
    failed = [one for one in taken.values() if isinstance(one, AnvylError)]
    if len(failed) == len(ids):
        raise failed[0]
    return {one: {} if isinstance(raw, AnvylError) else raw for one, raw in taken.items() if raw is not None}


def _sample(engine: Engine, one_shot: bool | None, container: str) -> EngineObject | AnvylError | None:
    """A sample, empty if the container is not running; its error if the request failed; None if it was removed."""

    def gone() -> AnvylError:
        return NotFound("it is gone")

    try:
        with engine_errors(missing=gone):
            return require_object(engine.client(SAMPLE_TIMEOUT).stats(container, stream=False, one_shot=one_shot))
    except NotFound:
        return None
    except Conflict:
        return {}
    except EngineMissing:
        raise
    except (EngineError, Timeout) as error:
        return error


def _row(name: str, before: EngineObject, now: EngineObject) -> ContainerStats:
    memory, storage = mapping(now.get("memory_stats")), mapping(now.get("storage_stats"))
    networks = [mapping(one) for one in mapping(now.get("networks")).values()]
    cpu, used = _cpu_percent(before, now), memory_used(memory)
    # A container with other figures but none for traffic had no traffic.
    nothing = None if cpu is None and used is None else 0
    return ContainerStats(
        name=name,
        cpu_percent=cpu,
        memory_used=used,
        memory_limit=number(memory.get("limit")),
        net_rx=_sum_known((one.get("rx_bytes") for one in networks), nothing),
        net_tx=_sum_known((one.get("tx_bytes") for one in networks), nothing),
        block_read=_sum_known(_block_bytes(now, "read", storage.get("read_size_bytes")), nothing),
        block_write=_sum_known(_block_bytes(now, "write", storage.get("write_size_bytes")), nothing),
        pids=number(mapping(now.get("pids_stats")).get("current")),
    )


def _cpu_percent(before: EngineObject, now: EngineObject) -> float | None:
    """As the Docker command line calculates it: 100 for each busy core."""
    usage = mapping(mapping(now.get("cpu_stats")).get("cpu_usage"))
    total = number(usage.get("total_usage"))
    passed, cores = _elapsed(before, now)
    if total is None or passed is None:
        return None
    used = total - (number(mapping(mapping(before.get("cpu_stats")).get("cpu_usage")).get("total_usage")) or 0)
    return round(used / passed * cores * 100, 2) if used > 0 and passed > 0 else 0.0


def _elapsed(before: EngineObject, now: EngineObject) -> tuple[float | None, int]:
    """Time between two samples in the unit of the container's cpu time, and the number of cores it covers."""
    if (system := _system_usage(now)) is not None:
        cpu = mapping(now.get("cpu_stats"))
        listed = mapping(cpu.get("cpu_usage")).get("percpu_usage")
        cores = number(cpu.get("online_cpus")) or (len(listed) if isinstance(listed, list) else 0) or 1
        return system - (_system_usage(before) or 0), cores
    moments = [to_nanoseconds(string(one.get("read"))) for one in (before, now)]
    if not number(now.get("num_procs")) or moments[0] is None or moments[1] is None or before is now:
        return None, 1
    # Windows counts in units of 100 ns of one core.
    return (moments[1] - moments[0]) / 100, 1


def memory_used(memory: EngineObject) -> int | None:
    """Memory without the page cache that the kernel can drop."""
    usage, details = number(memory.get("usage")), mapping(memory.get("stats"))
    if usage is None:
        return number(memory.get("privateworkingset"))
    cached = number(details.get("total_inactive_file", details.get("inactive_file"))) or 0
    return usage - cached if cached < usage else usage


def summary_lines(rows: Sequence[ContainerStats]) -> Iterator[str]:
    """Compact lines for the busiest containers; the common memory limit is in the heading."""
    most = max((row.memory_limit or 0 for row in rows), default=0)
    yield f"name cpu memory (limit {_short_size(most)} unless shown) net in/out pids"
    for row in rows[:MAX_ROWS]:
        limit = f"/{_short_size(row.memory_limit)}" if row.memory_limit != most else ""
        memory, network = (
            f"{_short_size(row.memory_used)}{limit}",
            f"{_short_size(row.net_rx)}/{_short_size(row.net_tx)}",
        )
        cpu = "-" if row.cpu_percent is None else f"{row.cpu_percent:.0f}%"
        yield f"{row.name} {cpu} {memory} {network} {'-' if row.pids is None else row.pids}"
    if len(rows) > MAX_ROWS:
        yield f"… {len(rows) - MAX_ROWS} more that use less; ask for one by `name`"


def _short_size(count: int | None) -> str:
    return "-" if count is None else text.format_size(count).replace("iB", "").replace(" ", "")


def _sum_known(counts: Iterable[Any], nothing: int | None) -> int | None:
    """Sum of the known counts, or `nothing` if none is known."""
    known = [found for count in counts if (found := number(count)) is not None]
    return sum(known) if known else nothing


def _block_bytes(now: EngineObject, operation: str, otherwise: Any) -> list[Any]:
    """Byte counts of one operation; `otherwise` is the count that Windows reports instead."""
    entries = objects(mapping(now.get("blkio_stats")).get("io_service_bytes_recursive"))
    return [one.get("value") for one in entries if string(one.get("op")).lower() == operation] or [otherwise]
