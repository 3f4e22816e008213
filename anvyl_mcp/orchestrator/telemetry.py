"""OpenTelemetry spans of a question: the agent, each request to a model, each tool, each host. Off unless asked for.

It is asked for with OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and the others). What was asked and
answered never leaves this machine with them: names, times and outcomes do.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from functools import cache
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from opentelemetry import trace
from pydantic_ai.capabilities import Instrumentation
from pydantic_ai.models.instrumented import InstrumentationSettings

from anvyl_mcp import __version__
from anvyl_mcp.peers.fleet.fleet import Outcome

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

ASKED_BY = "OTEL_EXPORTER_"
FLUSH_MILLISECONDS = 1000
"""How long an answer may wait for a collector that does not take its spans."""


def capabilities() -> list[Instrumentation]:
    """What an agent needs to be traced; nothing when nobody asked for it."""
    provider = _provider()
    if provider is None:
        return []
    settings = InstrumentationSettings(
        tracer_provider=provider, include_content=False, include_model_request_parameters=False
    )
    return [Instrumentation(settings)]


def called(outcome: Outcome) -> None:
    """A host answered: one span, under that of the tool."""
    provider = _provider()
    if provider is None:
        return
    now = time.time_ns()
    span = provider.get_tracer("anvyl").start_span(
        f"{outcome.tool} on {outcome.host}",
        start_time=now - int(outcome.seconds * 1e9),
        attributes={"anvyl.host": outcome.host, "anvyl.tool": outcome.tool, "anvyl.outcome": outcome.word},
    )
    if not outcome.ok:
        span.set_status(trace.StatusCode.ERROR, outcome.word)
    span.end(now)


async def flush() -> None:
    """Send what is kept: the process of a command ends with its answer."""
    provider = _provider()
    if provider is not None:
        await anyio.to_thread.run_sync(provider.force_flush, FLUSH_MILLISECONDS, abandon_on_cancel=True)


@cache
def _provider() -> TracerProvider | None:
    if not any(name.startswith(ASKED_BY) for name in os.environ):
        return None
    try:
        sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
        export: Any = importlib.import_module("opentelemetry.sdk.trace.export")
        otlp: Any = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        resources: Any = importlib.import_module("opentelemetry.sdk.resources")
    except ImportError:
        log.warning("%s… is set, but nothing here can send spans: pip install 'anvyl-mcp[otel]'", ASKED_BY)
        return None
    resource = resources.Resource.create({"service.name": "anvyl", "service.version": __version__})
    provider: TracerProvider = sdk.TracerProvider(resource=resource)
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter()))
    return provider
