"""Idle unauthenticated connections, or a caller that opens endless sessions, do not keep others out."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from anvyl_mcp.server.http import connection_slots, connections
from anvyl_mcp.server.http.connection_slots import ConnectionSlot, ConnectionSlots
from tests.server.http.test_serving_tls import ends, hosted, in_thread
from tests.support.hosts.nodes import ANVYL_MCP, NO_MODEL, PYTHON, ServingNode, run_program, running_node

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who calls")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
NOBODY = 65534
OWN = ("192.0.2.1", 4200)

IDLE = """
import contextlib, encodings.idna, os, resource, socket, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
uid, port = int(sys.argv[1]), int(sys.argv[2])
if uid: os.setgroups([]); os.setgid(uid); os.setuid(uid)
held = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
for one in held[150:] if uid else ():
    with contextlib.suppress(OSError):
        one.sendall(b"GET /health HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    home, engine = tmp_path_factory.mktemp("door"), "unix:///nonexistent/docker.sock"
    with running_node("door", home, ANVYL_LMSTUDIO_URL=NO_MODEL, DOCKER_HOST=engine) as started:
        yield started


@contextmanager
def idle_strangers(port: int, uid: int) -> Iterator[None]:
    """Open 300 silent connections as one user; for another user, half of them have requested `/health` before."""
    held = subprocess.Popen(
        [PYTHON, "-c", IDLE, str(uid), str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert held.stdin is not None and held.stdout is not None
    try:
        assert held.stdout.readline() == "held\n"
        yield
    finally:
        held.stdin.close()
        held.wait(20)
        held.stdout.close()


@as_root
@pytest.mark.parametrize("uid", [NOBODY, 0], ids=["another user", "root, as in a container"])
def test_three_hundred_idle_connections_do_not_keep_others_out(node: ServingNode, uid: int) -> None:
    with idle_strangers(node.port, uid):
        for headers in ({}, node.headers):
            with httpx.Client(base_url=node.url, headers=headers, timeout=20) as client:
                assert [client.get("/agent/info").status_code for _ in range(3)] == [200] * 3
        assert run_program("call", "get_host_resources", "--json", ANVYL_HOME=str(node.home)).code == 0


def test_two_hundred_clients_that_connect_at_once_are_all_answered(node: ServingNode) -> None:
    """They are more than the share of unauthenticated connections, but none had time to send its request."""
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", node.port), 20)) for _ in range(200)]
        for one in opened:
            one.sendall(request)
        assert [one.recv(12) for one in opened] == [b"HTTP/1.1 200"] * 200


async def test_only_unauthenticated_connections_are_closed(
    node: ServingNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(connections, "UNAUTHENTICATED_SECONDS", 0.1)
    async with hosted(tmp_path) as host:
        with host.dial("127.0.0.1") as silent, host.dial("127.0.0.1") as asking:
            asking.sendall(b"GET /scheme HTTP/1.1\r\nHost: h\r\n\r\n")
            assert await in_thread(lambda: ends(silent)) == b""
            assert (await in_thread(lambda: ends(asking))).startswith(b"HTTP/1.1 200")


def crowd(seats: ConnectionSlots, addresses: int, each: int) -> list[ConnectionSlot]:
    taken = [seats.take((f"198.51.100.{number}", port), OWN) for number in range(addresses) for port in range(each)]
    return [slot for slot in taken if slot is not None]


def test_eight_addresses_with_thirty_two_connections_each_leave_room_for_others() -> None:
    seats, closed = ConnectionSlots(100_000), list[ConnectionSlot]()
    for slot in crowd(seats, 8, 32):
        slot.close = partial(closed.append, slot)
    assert len(seats.taken) == 192

    late = seats.take(("203.0.113.9", 1), OWN)

    assert late is not None and len(closed) == 1 and len(seats.taken) == 192
    late.admit()
    crowd(seats, 100, 100)
    assert late in seats.taken and len(seats.taken) == 193


def test_each_address_has_a_share_and_a_machine_is_one_address() -> None:
    seats = ConnectionSlots(100_000)
    admitted = [seats.take(("198.51.100.1", port), OWN) for port in range(40)]
    assert len(seats.taken) == connection_slots.MAX_PER_GROUP and None not in admitted
    for slot in list(seats.taken):
        slot.admit()
    assert seats.take(("198.51.100.1", 99), OWN) is None
    assert seats.take(("198.51.100.2", 99), OWN) is not None
    for number in range(40):
        assert seats.take((f"2001:db8::{number:x}", 1), ("2001:db8::ffff", 4200)) is not None
    assert len(seats.taken) == 2 * connection_slots.MAX_PER_GROUP + 1


def test_a_running_request_keeps_its_place_and_a_place_is_released_once() -> None:
    seats = ConnectionSlots(16)
    busy = seats.take(("198.51.100.1", 1), OWN)
    assert busy is not None and seats.most == 4
    busy.busy = True
    crowd(seats, 9, 1)
    assert busy in seats.taken and len(seats.taken) == 3
    for slot in list(seats.taken):
        slot.busy = True
    assert seats.take(("203.0.113.9", 1), OWN) is None
    busy.leave()
    busy.leave()
    assert seats.take(("203.0.113.9", 1), OWN) is not None and len(seats.taken) == 3


HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
ACCEPT = {"accept": "application/json, text/event-stream"}


async def test_a_caller_that_opens_two_hundred_sessions_ends_only_its_own(node: ServingNode) -> None:
    words = ("token", "create", "reader", "--scope", "read", "--json")
    made = run_program(*words, program=ANVYL_MCP, ANVYL_HOME=str(node.home))
    reader = {"Authorization": f"Bearer {made.json['token']}"}

    async def send(client: httpx.AsyncClient, message: dict[str, Any], session: str = "") -> httpx.Response:
        extra = {"mcp-session-id": session} if session else {}
        return await client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, **message}, headers=ACCEPT | extra)

    async with (
        httpx.AsyncClient(base_url=node.url, headers=node.headers, timeout=60) as other,
        httpx.AsyncClient(base_url=node.url, headers=reader, timeout=60) as greedy,
    ):
        kept = (await send(other, {"method": "initialize", "params": HELLO})).headers["mcp-session-id"]
        opened = [await send(greedy, {"method": "initialize", "params": HELLO}) for _ in range(210)]
        assert {answer.status_code for answer in opened} == {200}

        assert (await send(other, {"method": "ping"}, kept)).status_code == 200
        assert (await send(other, {"method": "initialize", "params": HELLO})).status_code == 200
        assert (await send(greedy, {"method": "ping"}, opened[-1].headers["mcp-session-id"])).status_code == 200
        assert (await send(greedy, {"method": "ping"}, opened[0].headers["mcp-session-id"])).status_code == 404
