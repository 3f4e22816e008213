"""`GET /metrics` for Prometheus: this machine, its containers, calls and questions, and other hosts."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import anyio.to_thread
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from anvyl_mcp import __version__
from anvyl_mcp.server.audit.log import Audit
from anvyl_mcp.server.auth.callers import caller_of
from anvyl_mcp.server.calls.journal import Journal
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.http.metrics.samples import HostSampler

CALL_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
QUESTION_SECONDS = (0.05, 0.2, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)


class PeerHealth(NamedTuple):
    """Whether another host answers, and whether its circuit breaker is open."""

    name: str
    up: bool
    breaker_open: bool


class Metrics:
    """Counters of a serving host. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter("anvyl_tool_calls", "Calls of a tool.", ["tool", "outcome"], registry=self.registry)
        self._call_seconds = Histogram(
            "anvyl_tool_call_seconds", "How long a call took.", ["tool"], buckets=CALL_SECONDS, registry=self.registry
        )
        self._questions = Counter(
            "anvyl_questions", "Questions in plain words.", ["mode", "outcome"], registry=self.registry
        )
        self._question_seconds = Histogram(
            "anvyl_question_seconds", "How long one took.", ["mode"], buckets=QUESTION_SECONDS, registry=self.registry
        )
        self._requests = Counter("anvyl_model_requests", "Requests to a model.", ["model"], registry=self.registry)
        self._tokens = Counter(
            "anvyl_model_tokens", "Tokens of a model.", ["model", "direction"], registry=self.registry
        )

    def count_call(self, tool: str, outcome: str, seconds: float) -> None:
        """Count a tool call; `outcome` is `ok` or an error code."""
        self._calls.labels(tool, outcome).inc()
        self._call_seconds.labels(tool).observe(seconds)

    def count_question(self, *, mode: str, model: str, outcome: str, seconds: float, usage: Mapping[str, int]) -> None:
        """Count an answered question; `usage` has `requests`, `input_tokens` and `output_tokens`."""
        self._questions.labels(mode, outcome).inc()
        self._question_seconds.labels(mode).observe(seconds)
        if mode == "model":
            self._requests.labels(model).inc(usage.get("requests", 0))
            for direction in ("input", "output"):
                self._tokens.labels(model, direction).inc(usage.get(f"{direction}_tokens", 0))


def metrics_route(
    metrics: Metrics,
    engine: Engine,
    audit: Audit,
    journal: Journal,
    peers: Callable[[], Awaitable[Sequence[PeerHealth]]],
    name: str,
) -> Route:
    """Return the route, for callers who may read. `peers` checks the other hosts."""
    sampler = HostSampler(engine)
    metrics.registry.register(_HostCollector(sampler, audit, journal, name))
    peer_collector = _PeerCollector()
    metrics.registry.register(peer_collector)
    one_at_a_time = anyio.Lock()

    async def handler(request: Request) -> Response:
        caller = caller_of(request)
        caller.require("read", request.url.path)
        async with one_at_a_time:
            # A token without the relay mark does not reveal other hosts.
            peer_collector.peers = await peers() if caller.relay else ()
            body = await anyio.to_thread.run_sync(generate_latest, metrics.registry)
        return Response(body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Route("/metrics", handler)


class _PeerCollector(Collector):
    def __init__(self) -> None:
        self.peers: Sequence[PeerHealth] = ()

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("anvyl_peer_up", "Whether another host answers.", labels=["peer"])
        opened = GaugeMetricFamily("anvyl_peer_breaker_open", "Whether its circuit breaker is open.", labels=["peer"])
        for peer in self.peers:
            up.add_metric([peer.name], peer.up)
            opened.add_metric([peer.name], peer.breaker_open)
        yield from (up, opened)


class _HostCollector(Collector):
    """Collects the state of this machine and its containers at each scrape."""

    def __init__(self, sampler: HostSampler, audit: Audit, journal: Journal, name: str) -> None:
        self._sampler = sampler
        self._audit = audit
        self._journal = journal
        self._name = name
        self._started = time.time()
        self._lock = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering does not query the engine."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("anvyl", "This host.", value={"version": __version__, "host": self._name})
        yield _gauge("anvyl_start_time_seconds", "When the server started, in seconds since 1970.", self._started)
        yield _gauge("anvyl_audit_ok", "Whether the audit log can be written.", not self._audit.trouble)
        failures = CounterMetricFamily("anvyl_audit_failures", "Times that the audit log could not be written.")
        failures.add_metric([], self._audit.failures)
        yield failures
        yield _gauge("anvyl_journal_ok", "Whether the journal of operations can be written.", not self._journal.trouble)
        with self._lock:
            yield from self._machine()
            yield from self._containers()

    def _machine(self) -> Iterator[Metric]:
        now = self._sampler.machine()
        yield _gauge("anvyl_host_cpu_ratio", "Share of all cores that is busy.", now.cpu_percent / 100)
        yield _gauge("anvyl_host_load1", "Load average over a minute.", now.load[0])
        yield _gauge("anvyl_host_uptime_seconds", "Since the machine started.", now.uptime_seconds)
        for what, usage in (("memory", now.memory), ("swap", now.swap)):
            yield _gauge(f"anvyl_host_{what}_used_bytes", f"{what.title()} in use.", usage.used)
            yield _gauge(f"anvyl_host_{what}_total_bytes", f"{what.title()} there is.", usage.total)
        used = GaugeMetricFamily("anvyl_host_disk_used_bytes", "Space in use.", labels=["mount"])
        total = GaugeMetricFamily("anvyl_host_disk_total_bytes", "Space there is.", labels=["mount"])
        free = GaugeMetricFamily("anvyl_host_disk_free_bytes", "Space that is not reserved.", labels=["mount"])
        for disk in now.disks:
            used.add_metric([disk.mount], disk.used)
            total.add_metric([disk.mount], disk.total)
            free.add_metric([disk.mount], disk.free)
        yield from (used, total, free)

    def _containers(self) -> Iterator[Metric]:
        found = self._sampler.containers()
        yield _gauge("anvyl_engine_up", "Whether the Docker engine answers.", found is not None)
        if found is None:
            return
        states = GaugeMetricFamily("anvyl_containers", "Containers in each state.", labels=["state"])
        for state, count in found.states.items():
            states.add_metric([state], count)
        yield states
        unhealthy = GaugeMetricFamily(
            "anvyl_container_unhealthy", "Whether its health check fails; no line without one.", labels=["container"]
        )
        restarts = CounterMetricFamily(
            "anvyl_container_restarts", "Times that the engine restarted it.", labels=["container"]
        )
        for one in found.details:
            if one.health:
                unhealthy.add_metric([one.name], one.health == "unhealthy")
            restarts.add_metric([one.name], one.restarts)
        yield from (unhealthy, restarts)
        labels = ["container"]
        cpu = GaugeMetricFamily("anvyl_container_cpu_ratio", "Cores that it keeps busy.", labels=labels)
        memory = GaugeMetricFamily("anvyl_container_memory_used_bytes", "Memory in use.", labels=labels)
        limit = GaugeMetricFamily("anvyl_container_memory_limit_bytes", "Memory it may use.", labels=labels)
        for row in found.usage:
            if row.cpu_percent is not None:
                cpu.add_metric([row.name], row.cpu_percent / 100)
            if row.memory_used is not None:
                memory.add_metric([row.name], row.memory_used)
            if row.memory_limit is not None:
                limit.add_metric([row.name], row.memory_limit)
        yield from (cpu, memory, limit)


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, value=float(value))
