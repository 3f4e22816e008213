"""Raw HTTP to a real server: malformed, smuggled, oversized and cross-site requests change nothing.

One row for each attempt of the audit that held; after every one the server still answers.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.request import urlopen

import pytest

from tests.support.hosts.nodes import ServingNode, running_node

QUESTION = b'{"query": "stop everything", "approve": true}'
JSON = b"Content-Type: application/json\r\n"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    home, no_engine = tmp_path_factory.mktemp("raw"), "unix:///nonexistent/docker.sock"
    with running_node("raw", home, DOCKER_HOST=no_engine, ANVYL_LMSTUDIO_URL="http://127.0.0.1:1/v1") as started:
        yield started


def _post(
    path: bytes = b"/agent/process", headers: bytes = JSON, body: bytes = QUESTION, host: bytes = b"localhost"
) -> bytes:
    length = b"" if b"ength:" in headers or b"ncoding:" in headers else b"Content-Length: %d\r\n" % len(body)
    return b"POST %s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n%s" % (path, host, headers, length, body)


def _nested(depth: int) -> bytes:
    return b'{"query": ' + b"[" * depth + b"]" * depth + b"}"


ATTEMPTS: dict[str, tuple[bytes, set[int]]] = {
    "two lengths": (_post(headers=JSON + b"Content-Length: 45\r\nContent-Length: 4\r\n"), {400}),
    "length and chunked": (
        _post(headers=JSON + b"Content-Length: 45\r\nTransfer-Encoding: chunked\r\n", body=b"0\r\n\r\n"),
        {400},
    ),
    "chunked twice": (_post(headers=JSON + b"Transfer-Encoding: chunked, chunked\r\n", body=b"0\r\n\r\n"), {400, 501}),
    "unknown encoding": (_post(headers=JSON + b"Transfer-Encoding: gzip\r\n"), {400, 501}),
    "spaced header name": (_post(headers=JSON + b"Content-Length : 45\r\n"), {400}),
    "negative length": (_post(headers=JSON + b"Content-Length: -1\r\n"), {400}),
    "length in words": (_post(headers=JSON + b"Content-Length: many\r\n"), {400}),
    "chunk of a bad size": (
        _post(headers=JSON + b"Transfer-Encoding: chunked\r\n", body=b"zz\r\n{}\r\n0\r\n\r\n"),
        {400},
    ),
    "no version": (b"GET /agent/hosts\r\n\r\n", {400}),
    "no host": (b"GET /agent/hosts HTTP/1.1\r\n\r\n", {400, 403, 421}),
    "two hosts": (b"GET /agent/hosts HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", {400, 403, 421}),
    "absolute target": (
        b"GET http://evil.example/agent/hosts HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        {400, 403, 404, 421},
    ),
    "foreign name": (_post(host=b"evil.example"), {403, 421}),
    "name that resolves here": (_post(host=b"127.0.0.1.evil.example"), {403, 421}),
    "user in the name": (_post(host=b"localhost@evil.example"), {400, 403, 421}),
    "page of another origin": (_post(headers=JSON + b"Origin: https://evil.example\r\n"), {403}),
    "page without an origin": (_post(headers=JSON + b"Origin: null\r\n"), {403}),
    "page of another port": (_post(headers=JSON + b"Origin: http://localhost:1\r\n"), {403}),
    "cross-site fetch": (_post(headers=JSON + b"Sec-Fetch-Site: cross-site\r\n"), {403}),
    "form body": (_post(headers=b"Content-Type: application/x-www-form-urlencoded\r\n"), {415}),
    "plain text body": (_post(headers=b"Content-Type: text/plain\r\n"), {415}),
    "no content type": (_post(headers=b"X-Nothing: 1\r\n"), {415}),
    "multipart body": (_post(headers=b"Content-Type: multipart/form-data; boundary=x\r\n"), {415}),
    "preflight": (
        b"OPTIONS /agent/process HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n"
        b"Access-Control-Request-Method: POST\r\n\r\n",
        {403, 405},
    ),
    "websocket": (
        b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        {400, 403, 404, 405, 406, 426},
    ),
    "change by GET": (
        b"GET /agent/process?query=stop+everything&approve=true HTTP/1.1\r\nHost: localhost\r\n\r\n",
        {405},
    ),
    "method override": (
        b"GET /agent/process HTTP/1.1\r\nHost: localhost\r\nX-HTTP-Method-Override: POST\r\n\r\n",
        {405},
    ),
    "path with dots": (b"GET /agent/../agent/hosts/..%2f..%2fetc HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 404, 405}),
    "path with a null": (b"GET /agent/hosts/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 404, 405}),
    "approval that climbs": (_post(b"/agent/approvals/..%2f..%2ftokens", body=b'{"approve": true}'), {400, 404, 405}),
    "body too large": (_post(headers=JSON + b"Content-Length: 99999999\r\n"), {413}),
    "header too large": (_post(headers=JSON + b"X-Long: " + b"x" * 1_000_000 + b"\r\n"), {400, 431}),
    "nested deep": (_post(body=_nested(50_000)), {400, 413, 422}),
    "huge number": (_post(body=b'{"query": ' + b"9" * 5000 + b"}"), {400, 422}),
    "not a number": (_post(body=b'{"query": "x", "approve": NaN}'), {400, 422}),
    "lone surrogate": (_post(body=b'{"query": "\\ud800"}'), {200, 202, 400, 404, 422}),
    "many keys": (_post(body=json.dumps({f"k{number}": number for number in range(5000)}).encode()), {400, 422}),
    "not UTF-8": (_post(body=b'{"query": "\xff\xfe"}'), {400, 422}),
    "approval as text": (_post(body=b'{"query": "list hosts", "approve": "yes"}'), {200, 422}),
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_malformed_request_is_refused_and_the_server_keeps_running(name: str, node: ServingNode) -> None:
    request, expected = ATTEMPTS[name]

    status, body = _exchange(node.port, request)

    assert status in expected, body[:300]
    assert "Traceback" not in body
    with urlopen(f"{node.url}/health", timeout=5) as answer:
        assert answer.status == 200


def test_a_smuggled_request_gets_no_answer_of_its_own(node: ServingNode) -> None:
    hidden = b"GET /agent/hosts HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", node.port), timeout=5) as link:
        link.sendall(
            _post(headers=JSON + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", body=b"0\r\n\r\n" + hidden)
        )
        answers = _read(link)

    assert answers.count(b"HTTP/1.1 ") <= 1 or b"400" in answers.split(b"\r\n", 1)[0]
    assert b'"hosts"' not in answers


def _exchange(port: int, request: bytes) -> tuple[int, str]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        link.sendall(request)
        answer = _read(link)
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body.decode(errors="replace")


def _read(link: socket.socket) -> bytes:
    """Read until the server closes the connection, or sends nothing for a second after a response."""
    answer = b""
    while True:
        try:
            part = link.recv(65536)
        except (TimeoutError, ConnectionResetError):
            return answer
        if not part:
            return answer
        answer += part
        link.settimeout(0.3)
