"""OpenTelemetry spans for a question: the agent, each request to a model, each tool and each host.

Enabled by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and others). Spans contain names, times and
outcomes, but no text of questions or answers.
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
from anvyl_mcp.core import extras
from anvyl_mcp.peers.fleet.fleet import Outcome

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

VARIABLE_PREFIX = "OTEL_EXPORTER_"
FLUSH_MILLISECONDS = 1000
"""How long an answer may be delayed by a slow collector."""


def capabilities() -> list[Instrumentation]:
    """Agent capabilities for tracing; none if it is not enabled."""
    provider = _provider()
    if provider is None:
        return []
    settings = InstrumentationSettings(
        tracer_provider=provider, include_content=False, include_model_request_parameters=False
    )
    return [Instrumentation(settings)]


def record_call(outcome: Outcome) -> None:
    """Record the outcome on one host as a child span of the tool's."""
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
    """Export pending spans, because a command's process ends after its answer."""
    provider = _provider()
    if provider is not None:
        await anyio.to_thread.run_sync(provider.force_flush, FLUSH_MILLISECONDS, abandon_on_cancel=True)


@cache
def _provider() -> TracerProvider | None:
    if not any(name.startswith(VARIABLE_PREFIX) for name in os.environ):
        return None
    try:
        sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
        export: Any = importlib.import_module("opentelemetry.sdk.trace.export")
        otlp: Any = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        resources: Any = importlib.import_module("opentelemetry.sdk.resources")
    except ImportError:
        command = extras.install_command("otel")
        log.warning("%s… is set, but no exporter is installed: %s", VARIABLE_PREFIX, command)
        return None
    resource = resources.Resource.create({"service.name": "anvyl", "service.version": __version__})
    provider: TracerProvider = sdk.TracerProvider(resource=resource)
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter()))
    return provider
