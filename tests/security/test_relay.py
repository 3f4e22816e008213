"""A token is valid for its own host only; it reaches other hosts only if it was created with `relay`."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from anvyl_mcp.core import serve_lock
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.auth import limits
from anvyl_mcp.server.http.app import build_local_app
from anvyl_mcp.server.http.host_state import HostState
from tests.support.engine.engines import RealEngine
from tests.support.hosts.http_node import SCOPES, HttpNode, open_http_node
from tests.support.hosts.nodes import ServingNode, anvyl, running_node

NO_ENGINE = "unix:///nonexistent/docker.sock"
ASK = {
    "process": ("POST", "/agent/process", {"query": "list containers on second"}),
    "process a tag": ("POST", "/agent/process", {"query": "list containers on @far"}),
    "process a change": ("POST", "/agent/process", {"query": "stop web on second", "approve": True}),
    "process first": ("POST", "/agent/process", {"query": "second: list containers"}),
    "remote query": ("POST", "/agent/remote-query", {"host_id": "second", "query": "list containers"}),
    "remote query of an unknown host": (
        "POST",
        "/agent/remote-query",
        {"host_id": "unheard-of", "query": "list containers"},
    ),
    "broadcast": ("POST", "/agent/broadcast", {"message": "list containers"}),
    "hosts": ("GET", "/agent/hosts", None),
}


@pytest.fixture
async def http_node(fleet: ServingNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpNode]:
    """This host, `first`, knows `second`; only the caller `relay` has a relay token."""
    monkeypatch.setattr(limits, "PER_SECOND", dict.fromkeys(SCOPES, 1e6))
    (tmp_path / "hosts.toml").write_text(f'{entry(fleet, unique(tmp_path))}tags = ["far"]\n', encoding="utf-8")
    async with open_http_node(relay=False) as opened:
        opened.tokens["relay"] = opened.node.state.create_token("relay", "operate", None, relay=True)[1]
        yield opened


def calls_on(node: ServingNode) -> int:
    """Number of records in its audit log."""
    return len(HostState(load(environ={"ANVYL_HOME": str(node.home)}).state_dir).audit.read())


async def test_a_token_reaches_no_other_host(
    http_node: HttpNode, fleet: ServingNode, second_engine: RealEngine
) -> None:
    """With only a token of alpha, a third machine could once read beta's logs and stop its containers."""
    second_engine.run("web")
    before = calls_on(fleet)

    refused = {
        (what, scope): await http_node.request(scope, path, body, method=method)
        for what, (method, path, body) in ASK.items()
        for scope in ("read", "operate", "exec")
    }

    assert {what: one.status_code for what, one in refused.items()} == dict.fromkeys(refused, 403)
    errors = [one.json()["error"] for one in refused.values()]
    assert all("`anvyl-mcp invite --relay`" in error["hint"] for error in errors)
    assert all("is valid for first only" in error["message"] for error in errors)
    assert calls_on(fleet) == before
    assert second_engine.state("web") == "running"


async def test_a_question_covers_only_this_host_and_says_so(http_node: HttpNode, fleet: ServingNode) -> None:
    before = calls_on(fleet)

    for query in ("list containers", "list hosts", "list containers on all hosts", "host resources"):
        answered = await http_node.request("operate", "/agent/process", {"query": query})

        body = answered.json()
        assert answered.status_code == 200, answered.text
        assert set(body["hosts"]) <= {"first"} and {call["host"] for call in body["calls"]} == {"first"}
        assert not re.search(r"\bsecond\b", json.dumps(body))
        assert "only first was asked" in body["response"] and "--relay" in body["response"]
    assert calls_on(fleet) == before


async def test_a_token_does_not_reveal_other_hosts(http_node: HttpNode) -> None:
    known = {
        name: (await http_node.request(name, "/agent/info", method="GET")).json()["known_hosts"]
        for name in http_node.tokens
    }

    figures = {name: (await http_node.request(name, "/metrics", method="GET")).text for name in http_node.tokens}
    assert known == {"read": [], "operate": [], "exec": [], "relay": ["second"]}
    assert [name for name, text in figures.items() if 'anvyl_peer_up{peer="second"}' in text] == ["relay"]


async def test_a_relay_token_reaches_other_hosts(http_node: HttpNode) -> None:
    process = await http_node.request("relay", "/agent/process", {"query": "list containers"})
    remote = await http_node.request("relay", "/agent/remote-query", {"host_id": "second", "query": "list containers"})
    broadcast = await http_node.request("relay", "/agent/broadcast", {"message": "list containers"})
    hosts = await http_node.request("relay", "/agent/hosts", method="GET")

    assert set(process.json()["hosts"]) == {"first", "second"}
    assert remote.status_code == 200 and set(remote.json()["hosts"]) == {"second"}
    assert "second" in {one["host_id"] for one in broadcast.json()["results"]}
    assert set(hosts.json()["hosts"]) == {"second"}


async def test_the_gateway_accepts_only_relay_tokens(http_node: HttpNode, tmp_path: Path) -> None:
    """Everything behind `anvyl-mcp gateway --http` reaches the whole fleet."""
    node = http_node.node
    app = build_local_app(node.server, node.engine, node.state, name="first", local_token=tmp_path / "gateway.token")
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))

    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answers = {
            name: await client.get("/nothing", headers={"Authorization": f"Bearer {token}"})
            for name, token in http_node.tokens.items()
        }

    assert {name: one.status_code for name, one in answers.items()} == {
        "read": 403,
        "operate": 403,
        "exec": 403,
        "relay": 404,
    }
    assert "token create NAME --relay" in answers["exec"].json()["error"]["hint"]


async def test_a_pending_change_on_another_host_is_approved_only_with_a_relay_token(
    http_node: HttpNode, second_engine: RealEngine
) -> None:
    second_engine.run("web")
    waiting = await http_node.request("relay", "/agent/process", {"query": "stop web on second"})
    path = f"/agent/approvals/{waiting.json()['approval']['id']}"

    refused = await http_node.request("exec", path, {"approve": True})
    state = second_engine.state("web")
    done = await http_node.request("relay", path, {"approve": True})

    assert (waiting.status_code, refused.status_code, state) == (202, 403, "running")
    assert done.status_code == 200 and second_engine.state("web") == "exited", done.text


async def test_a_container_named_like_another_host_can_be_asked_about(http_node: HttpNode, engine: RealEngine) -> None:
    engine.run("second")

    answered = await http_node.request("operate", "/agent/process", {"query": "restart second", "approve": True})

    assert answered.status_code == 200 and {call["host"] for call in answered.json()["calls"]} == {"first"}


async def test_tokens_of_older_versions_cannot_relay(http_node: HttpNode, tmp_path: Path) -> None:
    """A home of an older version still works; its tokens are valid for this host only."""
    file = tmp_path / "trust" / "tokens.json"
    kept = json.loads(file.read_text(encoding="utf-8"))
    for entry in kept["tokens"].values():
        del entry["relay"]
    file.write_text(json.dumps(kept), encoding="utf-8")

    listed = await http_node.request("relay", "/agent/process", {"query": "list containers"})
    refused = await http_node.request("relay", "/agent/broadcast", {"message": "list containers"})

    assert listed.status_code == 200 and set(listed.json()["hosts"]) == {"first"}
    assert refused.status_code == 403


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[tuple[ServingNode, ServingNode]]:
    """Two hosts that know each other; callers on this machine need no relay token."""
    with (
        running_node("a", tmp_path / "a", DOCKER_HOST=NO_ENGINE) as one,
        running_node("b", tmp_path / "b", DOCKER_HOST=NO_ENGINE) as other,
    ):
        for node, peer in ((one, other), (other, one)):
            (node.home / "hosts.toml").write_text(entry(peer, node.name), encoding="utf-8")
        yield one, other


def unique(folder: Path) -> str:
    """Host name that is unique per test, for a host shared by tests."""
    return re.sub(r"\W", "-", folder.name).strip("-")[:60]


def entry(node: ServingNode, called: str) -> str:
    """Hosts file entry with a relay token for `called`."""
    token = HostState(load(environ={"ANVYL_HOME": str(node.home)}).state_dir).create_token(
        called, "operate", None, relay=True
    )[1]
    return f'[hosts.{node.name}]\nurl = "{node.url}"\ntoken = "{token}"\n'


def test_each_host_answers_a_broadcast_only_for_itself(ring: tuple[ServingNode, ServingNode], tmp_path: Path) -> None:
    """Asked about all hosts, each agent once asked all of them again."""
    (tmp_path / "hosts.toml").write_text("".join(entry(node, "hub") for node in ring), encoding="utf-8")

    everywhere = anvyl("agent", "broadcast", "host resources on all hosts", "--json", ANVYL_NAME="hub")
    about_one = anvyl("agent", "broadcast", "host resources on b", "--json", ANVYL_NAME="hub")

    results = {one["host_id"]: one for one in everywhere.json["results"]}
    assert "error" not in results["a"] and "error" not in results["b"], results
    calls = {node.name: [one.who for one in _audit(node).read(tool="get_host_resources")] for node in ring}
    assert {name: len(found) for name, found in calls.items()} == {"a": 1, "b": 2}
    only = {one["host_id"]: one for one in about_one.json["results"]}
    assert "each host answers a broadcast for itself" in only["a"]["error"]["message"]
    assert "error" not in only["b"]


def _audit(node: ServingNode) -> Any:
    return HostState(load(environ={"ANVYL_HOME": str(node.home)}).state_dir).audit


async def test_callers_on_the_machine_itself_reach_the_fleet(fleet: ServingNode, tmp_path: Path) -> None:
    with running_node("first", tmp_path / "first", DOCKER_HOST=NO_ENGINE) as node:
        (node.home / "hosts.toml").write_text(entry(fleet, unique(tmp_path)), encoding="utf-8")
        own = {"Authorization": f"Bearer {serve_lock.read_local_token(node.home / 'run')}"}
        async with httpx.AsyncClient(base_url=node.url, headers=own, timeout=60, trust_env=False) as client:
            hosts = await client.get("/agent/hosts")
            asked = await client.post("/agent/remote-query", json={"host_id": "second", "query": "host resources"})

    assert set(hosts.json()["hosts"]) == {"second"} and asked.status_code == 200
