"""The HTTP application: origin checks, `/health`, `/agent/*`, and no 5xx for malformed requests."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anvyl_mcp import __version__
from anvyl_mcp.core import serve_lock
from anvyl_mcp.orchestrator.api.endpoint import load_endpoints
from anvyl_mcp.server.http.origin_check import MAX_BODY_BYTES
from tests.app.test_serve import started, urls_in
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import NO_MODEL

PORTS = ("port", "agent-port")
ROUTES = [
    ("GET", "/health"),
    *((one.method, one.path.format(id="1", host_id="nas")) for one in load_endpoints()),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("POST", "/mcp"),
    ("GET", "/mcp"),
    ("DELETE", "/mcp"),
    ("GET", "/nothing"),
    ("POST", "/nothing"),
]
POSTS = [path for method, path in ROUTES if method == "POST"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's home."""
    return tmp_path_factory.mktemp("http")


@pytest.fixture
def every_right(urls: dict[str, str], home: Path) -> dict[str, str]:
    """Headers of a caller with every scope; without a token it has read and operate."""
    return {"Authorization": f"Bearer {serve_lock.read_local_token(home / 'run')}"}


@pytest.fixture(scope="module")
def urls(engine: RealEngine, home: Path) -> Iterator[dict[str, str]]:
    """A server with two ports, on a real engine, without a model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        other = str(probe.getsockname()[1])
    (home / "hosts.toml").write_text('[hosts.nas]\nurl = "http://192.0.2.1:4200"\n', encoding="utf-8")
    environment = {**engine.environment, "ANVYL_HOME": str(home), "ANVYL_LMSTUDIO_URL": NO_MODEL}
    with started("--name", "alpha", "--port", "0", "--agent-port", other, **environment) as (_, line):
        yield dict(zip(PORTS, urls_in(line), strict=True))


@pytest.fixture(params=PORTS)
def either(request: pytest.FixtureRequest, urls: dict[str, str]) -> Iterator[httpx.Client]:
    """A client of each port."""
    with httpx.Client(base_url=urls[request.param], timeout=30) as client:
        yield client


@pytest.fixture
def client(urls: dict[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=urls["port"], timeout=30) as client:
        yield client


def error_of(answer: httpx.Response) -> dict[str, str]:
    """Return the error of an answer, which always has the same shape."""
    document = answer.json()
    assert set(document) == {"error"}
    error: dict[str, str] = document["error"]
    assert error.pop("request_id") == answer.headers["x-request-id"]
    assert set(error) == {"code", "message", "hint"}
    assert error["message"] and error["hint"] and "Traceback" not in answer.text
    return error


FOREIGN = {
    "another name": ({"Host": "evil.example"}, 421),
    "another name with our port": ({"Host": "evil.example:4200"}, 421),
    "our name inside another": ({"Host": "localhost.evil.example"}, 421),
    "our address inside another": ({"Host": "127.0.0.1.evil.example"}, 421),
    "no name": ({"Host": ""}, 421),
    "a name and more": ({"Host": "evil.example@localhost"}, 421),
    "an address on the network": ({"Host": "192.168.1.5:4200"}, 421),
    "a web page": ({"Origin": "https://evil.example"}, 403),
    "a web page on another port": ({"Origin": "http://localhost:3000"}, 403),
    "a file": ({"Origin": "null"}, 403),
    "a web page over https": ({"Origin": "https://localhost"}, 403),
    "a cross-site fetch": ({"Sec-Fetch-Site": "cross-site"}, 403),
    "a same-site fetch": ({"Sec-Fetch-Site": "same-site"}, 403),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_callers_are_refused_on_every_route_of_both_ports(case: str, either: httpx.Client) -> None:
    headers, status = FOREIGN[case]

    for method, path in ROUTES:
        answer = either.request(method, path, headers=headers, json={} if method == "POST" else None)
        assert (answer.status_code, error_of(answer)["code"]) == (status, "denied"), (method, path)
        assert not any(name.startswith("access-control-") for name in answer.headers)


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "{url}"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Host": "LocalHost:4200"}],
    ids=["own page", "same origin", "typed address", "other spelling"],
)
def test_local_callers_are_accepted(headers: dict[str, str], either: httpx.Client) -> None:
    url = str(either.base_url).rstrip("/")
    own = {name: value.format(url=url) for name, value in headers.items()}

    assert either.get("/health", headers=own).status_code == 200


def test_a_cors_preflight_is_refused(either: httpx.Client) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}

    answer = either.options("/agent/process", headers=asked)

    assert answer.status_code == 403
    assert not any(name.startswith("access-control-") for name in answer.headers)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_body_that_web_forms_can_send_is_refused(kind: str | None, path: str, either: httpx.Client) -> None:
    headers = {"Content-Type": kind} if kind else {}

    answer = either.post(path, content=b'{"query": "list hosts"}', headers=headers)

    assert (answer.status_code, error_of(answer)["code"]) == (415, "invalid_input")


def test_json_with_a_charset_is_json(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}

    assert client.post("/agent/process", content=b'{"query": "list hosts"}', headers=headers).status_code == 200


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("path", POSTS)
def test_a_large_body_is_refused_before_it_is_sent(path: str, either: httpx.Client) -> None:
    address = (either.base_url.host, either.base_url.port or 0)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {2**30}\r\n"
    with socket.create_connection(address, 5) as raw:
        raw.sendall(f"{head}Connection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 413 ") and b'"code":"invalid_input"' in answer


@pytest.mark.parametrize("path", [path for path in POSTS if path != "/nothing"])
def test_a_large_chunked_body_is_not_read_completely(
    path: str, either: httpx.Client, every_right: dict[str, str]
) -> None:
    chunks = itertools.repeat(b" " * 65536, MAX_BODY_BYTES // 65536 + 2)

    answer = either.post(path, content=chunks, headers={**JSON, **every_right})

    assert (answer.status_code, error_of(answer)["code"]) == (413, "invalid_input")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/agent/nothing", 404, "not_found"),
        ("GET", "/agent/process", 405, "invalid_input"),
        ("DELETE", "/agent/info", 405, "invalid_input"),
        ("POST", "/health", 405, "invalid_input"),
    ],
)
def test_unknown_paths_get_a_json_error(method: str, path: str, status: int, code: str, either: httpx.Client) -> None:
    answer = either.request(method, path, json={} if method == "POST" else None)

    assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    assert path in error_of(answer)["message"]
    if status == 405:
        assert error_of(answer)["hint"].removeprefix("use ") == answer.headers["allow"]


def test_health_needs_no_token_and_reports_the_engine(either: httpx.Client) -> None:
    answer = either.get("/health")

    body = answer.json()
    assert (answer.status_code, body.pop("checks")["engine"]) == (200, "ok")
    assert body == {"status": "healthy", "service": "anvyl", "version": __version__}


def test_info_has_the_fields_that_clients_rely_on(either: httpx.Client, urls: dict[str, str]) -> None:
    """Both ports name the URL for MCP clients."""
    info = either.get("/agent/info").json()
    tools = info.pop("tools")

    assert info == {
        "host_id": "alpha",
        "host_ip": "127.0.0.1",
        "port": httpx.URL(urls["port"]).port,
        "version": __version__,
        "model": "default",
        "model_provider_url": NO_MODEL,
        "mcp_server_url": f"{urls['port']}/mcp",
        "known_hosts": ["nas"],
        "status": "running",
    }
    assert {"list_containers", "stop_container", "list_hosts"} <= set(tools)


def ask(client: httpx.Client, query: str, **more: Any) -> httpx.Response:
    return client.post("/agent/process", json={"query": query, **more})


def test_a_read_only_question_is_answered(engine: RealEngine, either: httpx.Client) -> None:
    engine.run("web")

    answer = ask(either, "list containers on alpha")

    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"response", "words", "calls", "mode", "model", "usage", "hosts", "notes"}
    assert (body["mode"], body["model"], body["hosts"]) == ("rules", "rules", {"alpha": "ok"})
    [call] = body["calls"]
    assert set(call) == {"tool", "arguments", "host", "ok", "result", "error", "seconds"}
    assert (call["tool"], call["host"], call["ok"], call["error"]) == ("list_containers", "alpha", True, None)
    assert [one["name"] for one in call["result"]["containers"]] == ["web"]
    assert body["response"] and set(body["usage"]) == {"requests", "input_tokens", "output_tokens"}


def test_a_change_waits_for_approval_and_is_described(engine: RealEngine, either: httpx.Client) -> None:
    engine.run("web")

    answer = ask(either, "stop web on alpha")

    assert answer.status_code == 202
    body = answer.json()
    assert body["approval"]["calls"] == [
        {
            "tool": "stop_container",
            "arguments": {"name": "web"},
            "hosts": ["alpha"],
            "summary": "stop web (running) on alpha",
        }
    ]
    assert body["calls"] == [] and "Nothing was changed" in body["response"]
    assert engine.state("web") == "running"


def test_a_change_that_is_approved_is_done(engine: RealEngine, client: httpx.Client) -> None:
    engine.run("web")

    answer = ask(client, "stop web on alpha", approve=True)

    assert answer.status_code == 200
    assert [(call["tool"], call["ok"]) for call in answer.json()["calls"]] == [("stop_container", True)]
    assert engine.state("web") == "exited"


def test_a_failure_on_one_host_is_in_the_answer(engine: RealEngine, client: httpx.Client) -> None:
    """The unpaired host is never asked; the other one answers."""
    engine.run("web")

    body = ask(client, "list containers").json()

    assert body["hosts"] == {"alpha": "ok", "nas": "unreachable: not paired yet, so nothing is sent to it"}
    assert "nas" in body["response"]


BAD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "half of a JSON": b'{"query": "list',
    "a list": b'["list containers"]',
    "null": b"null",
    "text": b'"list containers"',
    "not UTF-8": b'{"query": "\xff"}',
    "half of a surrogate pair": b'{"query": "list hosts \\ud800"}',
    "a surrogate in a name": b'{"query": "list hosts", "\\ud800": 1}',
    "nested without end": b"[" * 100_000,
    "a number without end": b'{"query": ' + b"1" * 5000 + b"}",
    "no query": b"{}",
    "a number for a query": b'{"query": 5}',
    "null for a query": b'{"query": null}',
    "a list for a query": b'{"query": ["list hosts"]}',
    "not a number": b'{"query": NaN}',
    "text for approve": b'{"query": "list hosts", "approve": "yes"}',
    "a number for approve": b'{"query": "list hosts", "approve": 1}',
    "null for approve": b'{"query": "list hosts", "approve": null}',
    "an unknown field": b'{"query": "list hosts", "aprove": true}',
    "an empty query": b'{"query": ""}',
    "a blank query": b'{"query": " \\n\\t "}',
    "only control characters": b'{"query": "\\u0000\\u001b[31m\\u0007"}',
    "5,000 characters": json.dumps({"query": "x" * 5000}).encode(),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_an_invalid_body_is_refused(case: str, client: httpx.Client) -> None:
    answer = client.post("/agent/process", content=BAD_BODIES[case], headers=JSON)

    assert (answer.status_code, error_of(answer)["code"]) == (422, "invalid_input"), answer.text


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("make me a sandwich", 422, "not_understood"),
        ("list containers on nowhere", 404, "unknown_host"),
        ("stop web on nowhere", 404, "unknown_host"),
        ("stop wbe", 404, "not_found"),
        ("stop web", 409, "approval_needed"),
    ],
)
def test_an_unanswerable_question_gets_a_reason(
    query: str, status: int, code: str, engine: RealEngine, client: httpx.Client
) -> None:
    engine.run("web")

    answer = ask(client, query)

    assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    assert engine.state("web") == "running"


def test_control_characters_around_words_do_no_harm(client: httpx.Client) -> None:
    answer = ask(client, "list\u0007 \u001b[31mhosts\u202e")

    assert (answer.status_code, answer.json()["calls"][0]["tool"]) == (200, "list_hosts")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b'{"jsonrpc": "2.0", "id": 1}', b"\xff"])
def test_garbage_on_mcp_is_a_4xx_in_json(body: bytes, either: httpx.Client) -> None:
    answer = either.post("/mcp", content=body, headers={**JSON, "Accept": "application/json, text/event-stream"})

    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]
