"""Who may use the page: not scripts without a session, other users, nor the holder of half a session."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from anvyl_mcp.server.auth.local_trust import LOCAL_PREFIX
from anvyl_mcp.server.http.host_state import HostState
from tests.support.browser import one_time_link
from tests.support.hosts.http_node import open_http_node
from tests.support.hosts.nodes import ANVYL_MCP, NO_MODEL, PYTHON, ServingNode, anvyl, run_program, running_node

NOBODY = 65534
FETCHED = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
"""What a browser adds to a request of the page itself."""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes other users")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who calls")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    """A host without an engine."""
    home = tmp_path_factory.mktemp("alone")
    with running_node(
        "alone", home, DOCKER_HOST="unix:///nonexistent/docker.sock", ANVYL_LMSTUDIO_URL=NO_MODEL
    ) as node:
        yield node


@dataclass
class Session:
    """The two halves of a browser's session."""

    name: str
    cookie: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Cookie": f"{self.name}={self.cookie}", "X-Anvyl-Session": self.key}

    @property
    def bearer(self) -> str:
        """The text of the token that it is, as a thief might put it together."""
        identity, _, key = self.key.partition(".")
        return f"anv_{identity}_{self.cookie}{key}"


def sign_in(node: ServingNode, body: dict[str, str], **headers: str) -> httpx.Response:
    return httpx.post(f"{node.url}/session", json=body, headers={**FETCHED, **headers})


def session_from(answer: httpx.Response) -> Session:
    assert answer.status_code == 201, answer.text
    name, value = answer.headers["set-cookie"].partition(";")[0].split("=", 1)
    return Session(name, value, answer.json()["key"])


def secret_of(link: str) -> str:
    return link.partition("#sign-in=")[2]


def new_session(node: ServingNode, scope: str = "read,operate") -> Session:
    return session_from(sign_in(node, {"secret": secret_of(one_time_link(node, scope))}))


def status(node: ServingNode, headers: dict[str, str], path: str = "/session") -> int:
    return httpx.get(node.url + path, headers={**FETCHED, **headers}).status_code


def test_the_cookie_is_for_this_host_and_hidden_from_scripts(alone: ServingNode) -> None:
    answer = sign_in(alone, {"secret": secret_of(one_time_link(alone))})

    attributes = answer.headers["set-cookie"].split("; ")
    assert set(attributes[1:]) == {"Path=/", "HttpOnly", "SameSite=Strict", f"Max-Age={30 * 86400}"}
    assert answer.headers["cache-control"] == "no-store"
    session = session_from(answer)
    assert session.cookie not in answer.text
    assert status(alone, session.headers) == 200


def test_a_script_needs_a_session_even_as_the_servers_own_user(alone: ServingNode) -> None:
    """What a user may do from a shell is not what every page in the user's browser may do."""
    assert httpx.get(f"{alone.url}/agent/info").status_code == 200
    for mode in ("cors", "no-cors", "same-origin"):
        refused = httpx.get(f"{alone.url}/agent/info", headers={"Sec-Fetch-Mode": mode, "Sec-Fetch-Site": "none"})
        assert refused.status_code == 401
        assert "anvyl web" in refused.json()["error"]["hint"]


def test_fetch_of_node_is_a_program_and_no_script_of_a_page(alone: ServingNode) -> None:
    """It sends a mode like a browser, but no site."""
    assert httpx.get(f"{alone.url}/agent/info", headers={"Sec-Fetch-Mode": "cors"}).status_code == 200


def test_half_a_session_is_nothing(alone: ServingNode) -> None:
    mine, other = new_session(alone), new_session(alone)
    cookie = {"Cookie": mine.headers["Cookie"]}

    assert status(alone, mine.headers) == 200
    for headers in (
        cookie,
        {"X-Anvyl-Session": mine.key},
        {**cookie, "X-Anvyl-Session": other.key},
        {**cookie, "X-Anvyl-Session": mine.key[:-1] + ("A" if mine.key[-1] != "A" else "B")},
        {**cookie, "X-Anvyl-Session": ""},
        {"Cookie": f"{mine.name}={mine.cookie}; {mine.name}={other.cookie}", "X-Anvyl-Session": mine.key},
        {"Authorization": f"Bearer {mine.bearer}"},
        {"Authorization": f"Bearer anv_{mine.key.partition('.')[0]}_{mine.cookie}"},
    ):
        assert status(alone, headers) in (401, 429), headers
    assert status(alone, mine.headers) == 200, "guesses do not lock out the real one"
    # Guesses of one address are slowed down for a minute, also for the tests that follow.
    alone.restart()


@linux
@as_root
def test_another_user_gets_nothing_even_with_both_halves_and_the_link(alone: ServingNode) -> None:
    session, private = new_session(alone), one_time_link(alone, private=True)
    script = (
        "import encodings.idna, http.client, json, os, sys\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "def ask(method, headers, body=None):\n"
        "    connection = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]))\n"
        "    connection.request(method, '/session', body, headers)\n"
        "    return connection.getresponse().status\n"
        "sign_in = {'Content-Type': 'application/json', 'Sec-Fetch-Mode': 'cors'}\n"
        "print(json.dumps([ask('GET', json.loads(sys.argv[2])), ask('POST', sign_in, sys.argv[3])]))"
    )
    body = json.dumps({"secret": secret_of(private)})
    command = [PYTHON, "-c", script, str(alone.port), json.dumps({**FETCHED, **session.headers}), body]

    taken, redeemed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert (taken, redeemed) == (401, 403)
    assert status(alone, session.headers) == 200
    # The link that no other user could use still works for its own user.
    assert sign_in(alone, {"secret": secret_of(private)}).status_code == 201


def test_a_link_works_once_and_is_written_nowhere(alone: ServingNode) -> None:
    link = one_time_link(alone)
    secret = secret_of(link)
    session = session_from(sign_in(alone, {"secret": secret}))

    again = sign_in(alone, {"secret": secret})

    assert again.status_code == 403 and "already been used" in again.json()["error"]["message"]
    written = "".join(
        file.read_text(encoding="utf-8", errors="replace") for file in alone.home.rglob("*") if file.is_file()
    )
    for hidden in (secret, session.cookie, session.key.partition(".")[2]):
        assert hidden not in written
    assert "sign_in" in written


def test_a_join_code_opens_no_page_and_a_link_joins_no_host(alone: ServingNode) -> None:
    state = HostState(alone.home)
    code = state.invite("read", 60)[1]
    link = secret_of(one_time_link(alone))

    assert sign_in(alone, {"secret": code}).status_code == 403
    paired = httpx.post(f"{alone.url}/pair", json={"secret": link, "name": "evil"})
    assert paired.status_code == 403


def test_a_typed_token_gives_no_exec_and_ends_with_the_token(alone: ServingNode) -> None:
    state = HostState(alone.home)
    _, text = state.create_token("typed", "exec", None)

    answer = sign_in(alone, {"token": text})
    session = session_from(answer)
    assert answer.json()["scopes"] == ["read", "operate"]
    assert status(alone, session.headers) == 200
    assert sign_in(alone, {"token": session.bearer}).status_code == 403
    assert sign_in(alone, {"token": LOCAL_PREFIX + "x"}).status_code == 403

    state.revoke("typed")
    assert status(alone, session.headers) == 401
    alone.restart()


def test_scopes_are_those_of_the_link(alone: ServingNode) -> None:
    reading = new_session(alone, "read")
    answer = httpx.post(
        f"{alone.url}/agent/call",
        json={"tool": "stop_container", "arguments": {"name": "web"}, "approve": True},
        headers={**FETCHED, **reading.headers},
    )
    assert answer.status_code == 403 and "needs the scope `operate`" in answer.json()["error"]["message"]
    assert status(alone, reading.headers, "/agent/approvals") == 403
    operating = new_session(alone)
    refused = httpx.post(
        f"{alone.url}/agent/call",
        json={"tool": "execute_command", "arguments": {"command": "id"}},
        headers={**FETCHED, **operating.headers},
    )
    assert refused.status_code == 403


def test_sessions_are_listed_and_revoked_like_tokens(alone: ServingNode) -> None:
    session = new_session(alone)
    identity = session.key.partition(".")[0]
    listed = run_program("token", "list", program=ANVYL_MCP, ANVYL_HOME=str(alone.home))
    [line] = [line for line in listed.out.splitlines() if line.startswith(identity)]
    assert "read,operate,relay,browser" in line
    assert run_program("token", "revoke", identity, program=ANVYL_MCP, ANVYL_HOME=str(alone.home)).code == 0
    answer = httpx.get(f"{alone.url}/session", headers={**FETCHED, **session.headers})
    assert answer.status_code == 401 and "was revoked" in answer.json()["error"]["message"]


def test_an_expired_session_says_so(alone: ServingNode) -> None:
    session = new_session(alone)
    file = alone.home / "trust" / "tokens.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    past = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    stored["tokens"][session.key.partition(".")[0]]["expires"] = past
    file.write_text(json.dumps(stored), encoding="utf-8")

    answer = httpx.get(f"{alone.url}/session", headers={**FETCHED, **session.headers})

    assert answer.status_code == 401 and "expired on" in answer.json()["error"]["message"]
    assert "anvyl web" in answer.json()["error"]["hint"]


def test_an_open_page_does_not_delay_a_stop_and_a_revoked_one_is_cut_off(alone: ServingNode) -> None:
    session = new_session(alone)
    with httpx.stream("GET", f"{alone.url}/agent/fleet", headers={**FETCHED, **session.headers}) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: hosts"
        HostState(alone.home).revoke(session.key.partition(".")[0])
        started = time.monotonic()
        for _ in lines:
            pass
        assert time.monotonic() - started < 8
    asking = new_session(alone, "read,operate,exec")
    question = {"query": "run command sleep 60 on alone", "approve": True}
    url, headers = f"{alone.url}/agent/process/stream", {**FETCHED, **asking.headers}
    with httpx.stream("POST", url, json=question, headers=headers, timeout=30) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: call"
        HostState(alone.home).revoke(asking.key.partition(".")[0])
        started = time.monotonic()
        assert "event: done" not in list(lines)
        assert time.monotonic() - started < 8
    other = new_session(alone)
    with httpx.stream("GET", f"{alone.url}/agent/fleet", headers={**FETCHED, **other.headers}) as answer:
        assert next(answer.iter_lines()) == "event: hosts"
        started, port = time.monotonic(), alone.port
        alone.stop()
        assert time.monotonic() - started < 8
    alone.start(port)


def test_the_policy_of_the_page_allows_nothing_else(alone: ServingNode) -> None:
    answer = httpx.get(alone.url)

    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'" and "unsafe" not in str(policy)
    assert answer.headers["x-frame-options"] == "DENY"
    assert not re.search(r"""(?:src|href)="(?!#|data:|anvyl\.)""", answer.text)
    for path in ("/", "/anvyl.css", "/anvyl.js"):
        packed = httpx.get(alone.url + path, headers={"Accept-Encoding": "gzip"})
        assert (
            packed.headers["content-encoding"] == "gzip"
            and packed.text == httpx.get(alone.url + path, headers={"Accept-Encoding": "identity"}).text
        )
        assert httpx.get(alone.url + path, headers={"If-None-Match": packed.headers["etag"]}).status_code == 304


def test_no_answer_is_kept_by_a_cache_and_no_path_leads_out_of_the_page(alone: ServingNode) -> None:
    session = new_session(alone, "read")
    for path in ("/session", "/agent/info", "/agent/hosts", "/health", "/nothing", "/docs"):
        answer = httpx.get(alone.url + path, headers={**FETCHED, **session.headers})
        assert answer.headers["cache-control"] == "no-store", path
    stranger = httpx.get(f"{alone.url}/agent/info", headers=FETCHED)
    assert (stranger.status_code, stranger.headers["cache-control"]) == (401, "no-store")
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/anvyl.js/../index.html",
        "/web/anvyl.js",
        "//etc/passwd",
    ):
        with socket.create_connection(("127.0.0.1", alone.port), 20) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert raw.recv(12) == b"HTTP/1.1 404", path


async def test_over_tls_the_cookie_is_bound_to_the_host_and_any_name_will_do() -> None:
    """A name of one's own, as of a reverse proxy, needs no setting: the session stands in for the check of the name."""
    async with open_http_node() as http_node, http_node.client("anonymous") as client:
        foreign = {"Host": "nas.tailnet.example", **FETCHED}
        secret = http_node.node.state.browser_link("read", 60, relay=False)[1]

        assert (await client.get("/", headers=foreign)).status_code == 200
        assert (await client.get("/health", headers=foreign)).status_code == 421
        assert (await client.get("/agent/info", headers=foreign)).status_code == 401
        signed = await client.post("/session", json={"secret": secret}, headers=foreign)
        assert signed.headers["set-cookie"].startswith("__Host-anvyl-")
        assert "; Secure" in signed.headers["set-cookie"] and "Domain" not in signed.headers["set-cookie"]
        session = session_from(signed)
        seen = await client.get("/agent/info", headers={**foreign, **session.headers})
        assert seen.status_code == 200 and seen.json()["known_hosts"] == []
        plain = {**session.headers, "Cookie": session.headers["Cookie"].removeprefix("__Host-")}
        assert (await client.get("/agent/info", headers={**foreign, **plain})).status_code == 401
        spoofed = {**foreign, **session.headers, "Origin": "https://evil.example"}
        assert (await client.get("/agent/info", headers=spoofed)).status_code == 403


def test_anvyl_web_prints_a_link_and_says_when_no_server_runs(
    alone: ServingNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    printed = anvyl("web", "--print", ANVYL_HOME=str(alone.home))
    assert printed.code == 0 and printed.out.startswith(f"{alone.url}/#sign-in=") and "works once" in printed.err
    assert sign_in(alone, {"secret": secret_of(printed.out.strip())}).status_code in (201, 429)
    document = anvyl("web", "--json", "--scope", "read", ANVYL_HOME=str(alone.home)).json
    assert document["scopes"] == ["read"] and document["error"] is None
    monkeypatch.setattr("anvyl_mcp.cli.commands.web._has_display", lambda: True)
    opened_urls: list[str] = []

    def open_url(url: str) -> bool:
        opened_urls.append(url)
        return True

    monkeypatch.setattr("webbrowser.open", open_url)
    assert anvyl("web", ANVYL_HOME=str(alone.home)).code == 0
    assert opened_urls and opened_urls[0].startswith(f"{alone.url}/#sign-in=")

    none = anvyl("web", "--json", ANVYL_HOME=str(tmp_path / "none"))
    assert none.code == 1 and none.json["url"] is None and "anvyl-mcp serve" in none.json["error"]["hint"]
