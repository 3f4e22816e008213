"""OpenTelemetry: spans of agent, tools and hosts if enabled, without any text of questions or answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from anvyl_mcp.orchestrator import telemetry
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import anvyl


class Collector(BaseHTTPRequestHandler):
    """Receives spans as OTLP over HTTP."""

    bodies: list[bytes]

    def do_POST(self) -> None:
        Collector.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Collector]]:
    Collector.bodies = []
    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    telemetry._provider.cache_clear()
    yield Collector
    if provider := telemetry._provider():
        provider.shutdown()
    telemetry._provider.cache_clear()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_question_is_traced_down_to_its_hosts_without_its_text(
    collector: type[Collector], engine: RealEngine
) -> None:
    engine.run("secretive", environment={"DB_PASSWORD": "hunter2"})

    result = anvyl("ask", "show logs of secretive", "--offline", "--json")

    assert result.code == 0, result.err
    spans: dict[str, Any] = {}
    for body in collector.bodies:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            spans |= {span.name: span for scope in resource.scope_spans for span in scope.spans}
    host = next(name for name in spans if name.startswith("get_container_logs on "))
    tool = next(span for span in spans.values() if span.span_id == spans[host].parent_span_id)
    assert "get_container_logs" in tool.name
    assert any("anvyl" in name and "agent" in name for name in spans)
    assert b"secretive" not in b"".join(collector.bodies)


def test_nothing_is_traced_by_default() -> None:
    telemetry._provider.cache_clear()

    assert telemetry.capabilities() == []
