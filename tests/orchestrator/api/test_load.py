"""A real server under load: many clients, restarts, and concurrent changes of its hosts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import httpx
import pytest

from anvyl_mcp.peers.hosts.registry import Registry
from tests.support.hosts.nodes import NO_MODEL, ServingNode, run_program, running_node

NOTHING = "unix:///nonexistent/docker.sock"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServingNode]:
    home = tmp_path / "node"
    with running_node("alpha", home, ANVYL_LMSTUDIO_URL=NO_MODEL, DOCKER_HOST=NOTHING) as serving_node:
        yield serving_node


@pytest.fixture
def other(tmp_path: Path) -> Iterator[ServingNode]:
    with running_node("beta", tmp_path / "other", ANVYL_LMSTUDIO_URL=NO_MODEL, DOCKER_HOST=NOTHING) as serving_node:
        yield serving_node


def write_hosts(node: ServingNode, other: ServingNode) -> None:
    file = node.home / "hosts.toml"
    file.write_text(f'[hosts.beta]\nurl = "{other.url}"\ntoken = "{other.token}"\n', encoding="utf-8")
    file.chmod(0o600)


async def run_clients(node: ServingNode, clients: int, until: Callable[[int], bool]) -> int:
    """Run clients that each expect their own result, here and on the other host, and return the number of answers."""
    answered = 0
    async with httpx.AsyncClient(timeout=110) as client:
        # The first question imports the agent.
        _, url, _, token, *_ = (node.home / "hosts.toml").read_text(encoding="utf-8").split('"')
        for at, headers in ((node.url, node.headers), (url, {"Authorization": f"Bearer {token}"})):
            asked = {"query": "host info on local"}
            assert (await client.post(f"{at}/agent/process", json=asked, headers=headers)).is_success

    async def one(number: int) -> None:
        nonlocal answered
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=node.url, headers=node.headers, timeout=110, limits=limits) as client:
            round_ = 0
            while until(round_):
                word = f"word-{number}-{round_}"
                query = {"query": f"run command echo {word}", "approve": True}
                remote = number % 5 == 0
                path = "/agent/remote-query" if remote else "/agent/process"
                body = {"host_id": "beta", **query} if remote else {**query, "query": f"{query['query']} on alpha"}
                answer = await client.post(path, json=body, headers={"X-Request-Id": word})
                assert answer.status_code == 200, answer.text
                assert answer.headers["x-request-id"] == word
                [call] = answer.json()["calls"]
                assert (call["host"], call["result"]["stdout"].strip()) == ("beta" if remote else "alpha", word)
                answered += 1
                round_ += 1

    async with anyio.create_task_group() as group:
        for number in range(clients):
            group.start_soon(one, number)
    return answered


async def test_fifty_clients_at_once_get_their_own_answers(node: ServingNode, other: ServingNode) -> None:
    write_hosts(node, other)

    with anyio.fail_after(120):
        assert await run_clients(node, 50, lambda round_: round_ < 2) == 100


@pytest.mark.long
async def test_two_hundred_clients_for_half_a_minute_get_their_own_answers(
    node: ServingNode, other: ServingNode
) -> None:
    write_hosts(node, other)
    end = time.monotonic() + 30

    with anyio.fail_after(240):
        assert await run_clients(node, 200, lambda round_: round_ == 0 or time.monotonic() < end) >= 200

    async with httpx.AsyncClient(base_url=node.url) as client:
        assert (await client.get("/health")).status_code == 200


def test_approvals_survive_a_killed_server(node: ServingNode, tmp_path: Path) -> None:
    file = tmp_path / "done"
    with httpx.Client(base_url=node.url, headers=node.headers, timeout=60) as client:
        asked = client.post("/agent/process", json={"query": f"run command touch {file}"})
    assert asked.status_code == 202
    approval = asked.json()["approval"]["id"]

    node.restart()

    with httpx.Client(base_url=node.url, headers=node.headers, timeout=60) as client:
        assert client.post(f"/agent/approvals/{approval}", json={"approve": True}).status_code == 200
        assert file.exists()
    node.restart()
    with httpx.Client(base_url=node.url, headers=node.headers, timeout=60) as client:
        assert client.post(f"/agent/approvals/{approval}", json={"approve": True}).status_code == 410


def test_a_chain_of_approvals_survives_a_restart_of_either_side(
    node: ServingNode, other: ServingNode, tmp_path: Path
) -> None:
    write_hosts(node, other)
    file = tmp_path / "done"
    body = {"host_id": "beta", "query": f"run command touch {file}"}
    with httpx.Client(base_url=node.url, headers=node.headers, timeout=60) as client:
        approval = client.post("/agent/remote-query", json=body).json()["approval"]["id"]

    node.restart()
    other.restart()
    write_hosts(node, other)

    with httpx.Client(base_url=node.url, headers=node.headers, timeout=60) as client:
        done = client.post(f"/agent/approvals/{approval}", json={"approve": True})
    assert done.status_code == 200, done.text
    assert file.exists()


def test_hosts_added_concurrently_are_all_saved(node: ServingNode) -> None:
    """Commands and the API write one file, and a running server reads what each of them wrote."""
    registry = Registry(node.home / "hosts.toml")

    async def add_hosts() -> None:
        client = httpx.AsyncClient(base_url=node.url, headers=node.headers, timeout=60)
        async with client, anyio.create_task_group() as group:

            async def by_api(number: int) -> None:
                body = {"host_id": f"api-{number}", "host_ip": f"10.0.0.{number + 1}"}
                assert (await client.post("/agent/hosts", json=body)).status_code == 201

            async def by_command(number: int) -> None:
                words = ("hosts", "add", f"cli-{number}", f"10.0.1.{number + 1}")
                done = await anyio.to_thread.run_sync(lambda: run_program(*words, ANVYL_HOME=str(node.home)))
                assert done.code == 0, done.err

            for number in range(8):
                group.start_soon(by_api, number)
            for number in range(3):
                group.start_soon(by_command, number)

    anyio.run(add_hosts)

    wanted = {*(f"api-{number}" for number in range(8)), *(f"cli-{number}" for number in range(3))}
    assert set(registry.peers()) == wanted
    with httpx.Client(base_url=node.url, headers=node.headers, timeout=60) as client:
        assert set(client.get("/agent/info").json()["known_hosts"]) == wanted
        for name in wanted:
            assert client.delete(f"/agent/hosts/{name}").status_code == 200
        assert client.get("/agent/hosts").json() == {"hosts": {}}
    assert {file.name for file in node.home.iterdir() if "hosts" in file.name} == {"hosts.toml", "hosts.lock"}


BAD_HOSTS = {
    "without address": ({"host_id": "x"}, 422),
    "without name": ({"host_ip": "10.0.0.1"}, 422),
    "nothing": ({}, 422),
    "both ways": ({"host_id": "x", "host_ip": "10.0.0.1", "invite": "anv1-x"}, 422),
    "without code": ({"invite": "hello"}, 422),
    "a code of another kind": ({"invite": "anv1-AAAA"}, 422),
    "a port of text": ({"host_id": "x", "host_ip": "10.0.0.1", "port": "4200"}, 422),
    "port 0": ({"host_id": "x", "host_ip": "10.0.0.1", "port": 0}, 422),
    "a large port": ({"host_id": "x", "host_ip": "10.0.0.1", "port": 70000}, 422),
    "a URL": ({"host_id": "x", "host_ip": "http://10.0.0.1"}, 422),
    "an address with a port": ({"host_id": "x", "host_ip": "10.0.0.1:80"}, 422),
    "a user": ({"host_id": "x", "host_ip": "a@10.0.0.1"}, 422),
    "control characters": ({"host_id": "x", "host_ip": "10.0.0.1\r\nHost: y"}, 422),
    "a name of control characters": ({"host_id": "\u0000\u001b[2J", "host_ip": "10.0.0.1"}, 422),
    "a reserved name": ({"host_id": "all", "host_ip": "10.0.0.1"}, 422),
    "a path for a name": ({"host_id": "../x", "host_ip": "10.0.0.1"}, 422),
    "itself": ({"host_id": "alpha", "host_ip": "10.0.0.1"}, 409),
    "link-local": ({"host_id": "x", "host_ip": "169.254.169.254"}, 422),
    "link-local, mapped": ({"host_id": "x", "host_ip": "::ffff:169.254.169.254"}, 422),
    "link-local, IPv6": ({"host_id": "x", "host_ip": "fe80::1"}, 422),
    "the cloud's IPv6": ({"host_id": "x", "host_ip": "fd00:ec2::254"}, 422),
    "unspecified": ({"host_id": "x", "host_ip": "0.0.0.0"}, 422),
    "unspecified, IPv6": ({"host_id": "x", "host_ip": "::"}, 422),
    "broadcast": ({"host_id": "x", "host_ip": "255.255.255.255"}, 422),
    "a group": ({"host_id": "x", "host_ip": "224.0.0.1"}, 422),
    "one number": ({"host_id": "x", "host_ip": "2852039166"}, 422),
    "hexadecimal": ({"host_id": "x", "host_ip": "0xa9fea9fe"}, 422),
    "an old spelling": ({"host_id": "x", "host_ip": "169.254.43518"}, 422),
    "a bad pin": ({"host_id": "x", "host_ip": "10.0.0.1", "pin": "sha256:x"}, 422),
    "a token without a pin": ({"host_id": "x", "host_ip": "10.0.0.1", "token": "anv_x"}, 422),
    "a bad tag": ({"host_id": "x", "host_ip": "10.0.0.1", "tags": ["a b"]}, 422),
}


def test_invalid_hosts_are_refused_with_a_reason(node: ServingNode) -> None:
    with httpx.Client(base_url=node.url, headers=node.headers, timeout=60) as client:
        for case, (body, status) in BAD_HOSTS.items():
            answer = client.post("/agent/hosts", json=body)

            assert answer.status_code == status, (case, answer.text)
            error = answer.json()["error"]
            assert error["message"] and error["hint"] and "\x1b" not in answer.text, case
        assert client.get("/agent/info").json()["known_hosts"] == []
        assert client.delete("/agent/hosts/nowhere").status_code == 404
