"""The OpenAPI document is correct: no request gets an undocumented status, a 5xx, or more than its caller's rights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import Future
from html import unescape
from typing import Any

import anyio.from_thread
import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from schemathesis import checks
from schemathesis.core.result import Ok

from anvyl_mcp.orchestrator.api.endpoint import load_endpoints
from anvyl_mcp.orchestrator.api.openapi import document
from anvyl_mcp.server.auth import limits
from tests.support.hosts.http_node import CALLERS, SCOPES, HttpNode, open_http_node

RIGHTS = {"anonymous": (), "read": ("read",), "operate": ("read", "operate"), "exec": SCOPES}
OPEN = ("/health",)
OPERATIONS = [
    result.ok() for result in schemathesis.openapi.from_dict(document()).get_all_operations() if isinstance(result, Ok)
]
EXAMPLES = 12
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


class Answers:
    """The node in this process, for synchronous tests."""

    def __init__(self, http_node: HttpNode, portal: anyio.from_thread.BlockingPortal) -> None:
        self._http_node = http_node
        self._portal = portal

    def request(self, caller: str, method: str, url: str, **more: Any) -> httpx.Response:
        """One request, with the answer's body read."""

        async def ask() -> httpx.Response:
            async with self._http_node.client(caller) as client:
                return await client.request(method, url, **more)

        waiting: Future[httpx.Response] = self._portal.start_task_soon(ask)
        return waiting.result(60)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    monkeypatch.setattr(limits, "PER_SECOND", dict.fromkeys(SCOPES, 1e6))
    # Otherwise the stream would go on for an hour.
    monkeypatch.setattr("anvyl_mcp.orchestrator.api.endpoints.fleet.LONGEST_SECONDS", 0.05)
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_http_node()) as http_node,
    ):
        yield Answers(http_node, portal)


def scope_of(method: str, path: str) -> str:
    """The scope that a route needs."""
    row = next((one for one in load_endpoints() if (one.method, one.path) == (method.upper(), path)), None)
    return row.scope if row else "read"


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: str(mode.value))
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
def test_every_request_gets_a_documented_response_within_its_callers_rights(
    operation: schemathesis.APIOperation[Any, Any, Any, Any], mode: schemathesis.GenerationMode, answers: Answers
) -> None:
    needs = scope_of(operation.method, operation.path)
    empty = (
        mode is schemathesis.GenerationMode.NEGATIVE and not operation.body and not list(operation.iter_parameters())
    )
    cases = st.just(None) if empty else operation.as_strategy(mode)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def sent(case: schemathesis.Case[Any] | None) -> None:
        for caller in CALLERS if case is not None else ():
            assert case is not None
            sent_request = case.as_transport_kwargs(base_url="https://127.0.0.1")
            sent_request = {
                key: sent_request[key]
                for key in ("method", "url", "headers", "params", "json", "data")
                if key in sent_request
            }
            if isinstance(sent_request.get("data"), bytes | str):
                sent_request["content"] = sent_request.pop("data")
            chosen = dict(sent_request.pop("headers") or {}).items()
            headers = {key: value for key, value in chosen if key.lower() not in ("authorization", "host")}
            answer = answers.request(
                caller, sent_request.pop("method"), sent_request.pop("url"), headers=headers, **sent_request
            )
            if needs in RIGHTS[caller] or operation.path in OPEN:
                assert answer.status_code not in (401, 403) or "loopback address" in answer.text, answer.text
            else:
                assert answer.status_code in (401, 403, 404, 405, 408, 413, 415), (caller, answer.status_code)
                assert "error" in answer.json()
            assert answer.status_code < 500, answer.text
            case.validate_response(answer, checks=CHECKS)

    sent()


def test_every_endpoint_has_a_valid_example(answers: Answers) -> None:
    openapi = answers.request("read", "GET", "/openapi.json").json()

    assert openapi == json.loads(json.dumps(document()))
    for one in load_endpoints():
        operation = openapi["paths"][one.path][one.method.lower()]
        assert operation["summary"] and f"`{one.scope}`" in operation["description"]
        assert {"401", "403", "421", "429"} <= set(operation["responses"])
        if one.body is not None:
            assert one.example is not None
            one.body.model_validate_json(json.dumps(one.example))
        if not one.streams:
            assert one.response_examples, one.path
        for status, shown in one.response_examples.items() if not one.streams else ():
            TypeAdapter(one.responses[status]).validate_json(json.dumps(shown))
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(openapi))
    assert references and set(references) <= set(openapi["components"]["schemas"])


def test_the_docs_page_loads_no_external_resources(answers: Answers) -> None:
    answer = answers.request("read", "GET", "/docs")

    page = unescape(answer.text)
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script" not in page and not re.search(r"(?:src|href)=\"(?!#|/openapi\.json)", page)
    assert all(f"{one.method} {one.path}" in page and one.summary.split(".")[0] in page for one in load_endpoints())


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
def test_the_documentation_needs_a_token(path: str, answers: Answers) -> None:
    assert answers.request("anonymous", "GET", path).status_code == 401


@pytest.mark.parametrize(
    ("sent", "kept"), [("abc-1", True), ("a b", False), ("x" * 65, False), ("\u00e9", False), ("", False)]
)
def test_a_valid_request_id_of_the_client_is_used(sent: str, kept: bool, answers: Answers) -> None:
    for path in ("/agent/info", "/nothing", "/agent/hosts"):
        method = "DELETE" if path == "/agent/hosts" else "GET"
        answer = answers.request("read", method, path, headers=[(b"X-Request-Id", sent.encode("latin-1"))])

        request_id = answer.headers["x-request-id"]
        assert (request_id == sent) is kept and request_id
        if answer.status_code >= 400:
            assert answer.json()["error"]["request_id"] == request_id
