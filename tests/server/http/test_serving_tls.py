"""Both sides of a server over real sockets: plain on loopback, pinned TLS on the network, one port number.

The network is 127.0.0.2 here: not one of the two addresses that are served plain, and there on every Linux machine.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import resource
import select
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import Message, Receive, Scope, Send

from anvyl_mcp.core import errors
from anvyl_mcp.peers.connection.listing import Connection
from anvyl_mcp.peers.connection.sdk_client import SdkClient
from anvyl_mcp.peers.connection.tls_pinning import pinned_context
from anvyl_mcp.peers.connection.transports import connect
from anvyl_mcp.server.auth.certificate import Identity, host_identity
from anvyl_mcp.server.http import connection_slots, connections
from anvyl_mcp.server.http.connection_slots import ConnectionSlots
from anvyl_mcp.server.http.connections import raise_descriptor_limit
from anvyl_mcp.server.http.listener import HostServer, is_plain, listen, make_server, url_of
from tests.support.hosts.nodes import ANVYL_MCP, NO_MODEL, READY_SECONDS, running_node
from tests.support.hosts.tls_server import certificate_of, record_tls, write_pair
from tests.support.toy_server import ToyTools, faulty_server, read_request

NETWORK = "127.0.0.2"
TOKEN = "anv_1234_the-secret-of-this-test"
END_SECONDS = 12
CLIENTS = ("lean", "long-lived", "legacy")


class Face:
    """The toy server behind HTTP, which records how it was reached."""

    def __init__(self, toy: ToyTools) -> None:
        self.toy = toy
        self.mcp = toy.server()
        self.lifespans = 0
        self.scopes: list[Scope] = []
        self._inner = self.mcp.streamable_http_app(
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.lifespans += scope["type"] == "lifespan"
        if scope["type"] == "http":
            self.scopes.append(scope)
            if scope["path"] in ("/scheme", "/body"):
                await self._tell(scope, receive, send)
                return
        await self._inner(scope, receive, send)

    async def _tell(self, scope: Scope, receive: Receive, send: Send) -> None:
        message: Message = {"more_body": True}
        while message.get("more_body"):
            message = await receive()
        body = f"{scope['scheme']} {scope['client'][0]}".encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    @property
    def tokens(self) -> set[str | None]:
        """The `Authorization` headers of the requests so far."""
        return {dict(scope["headers"]).get(b"authorization", b"").decode() for scope in self.scopes}


class Host:
    """A server under test."""

    def __init__(self, face: Face, server: HostServer, port: int, identity: Identity) -> None:
        self.face = face
        self.server = server
        self.port = port
        self.identity = identity
        self.plain = f"http://127.0.0.1:{port}"
        self.secure = f"https://{NETWORK}:{port}"

    def to(self, client: str = "lean", *, pin: str | None = None, token: str = TOKEN) -> Connection:
        """Connect to its network side."""
        pin = self.identity.pin if pin is None else pin
        if client == "legacy":
            return SdkClient(f"{self.secure}/mcp", mode="legacy", pin=pin, token=token)
        return connect(self.secure, lean=client == "lean", pin=pin, token=token)

    def dial(self, address: str = NETWORK, source: str = "") -> socket.socket:
        """Open a raw TCP connection."""
        dialled = socket.create_connection((address, self.port), 5, (source, 0) if source else None)
        dialled.settimeout(15)
        return dialled


@asynccontextmanager
async def hosted(folder: Path, address: str = "0.0.0.0", **options: Any) -> AsyncIterator[Host]:
    """Serve the toy in this process; fails if it does not stop in time."""
    face = Face(ToyTools())
    identity = host_identity(folder / "identity")
    sockets = listen(address, [0])
    ready = anyio.Event()
    made = make_server(face, face.mcp, on_ready=ready.set, **{"identity": lambda: identity, **options})
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(made.serve, sockets)
            with anyio.fail_after(5):
                await ready.wait()
            yield Host(face, made, sockets[0].getsockname()[1], identity)
            face.toy.release.set()
            made.should_exit = True
            group.cancel_scope.deadline = anyio.current_time() + END_SECONDS
        assert not group.cancel_scope.cancelled_caught
    finally:
        for one in sockets:
            one.close()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with hosted(tmp_path) as host:
        yield host


@asynccontextmanager
async def closing(connection: Connection) -> AsyncIterator[Connection]:
    try:
        yield connection
    finally:
        await connection.close()


async def in_thread(work: Callable[[], Any]) -> Any:
    """Run blocking work on a thread while the server runs."""
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)


def get(url: str, pin: str = "", **headers: str) -> str:
    """Send one request with these headers."""
    with httpx2.Client(verify=pinned_context([pin]) if pin else True, trust_env=False) as client:
        return client.get(url, headers=headers).raise_for_status().text


def ends(dialled: socket.socket) -> bytes:
    """Read until the other end closes."""
    data = b""
    with suppress(ConnectionResetError):
        while part := dialled.recv(4096):
            data += part
    return data


def answer(dialled: socket.socket) -> bytes:
    """Read one response of `Face`, head and body."""
    data = b""
    while not re.search(rb"\r\n\r\nhttps? [0-9.]+$", data):
        part = dialled.recv(4096)
        assert part, data
        data += part
    return data.rpartition(b"\r\n")[2]


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_pinned_call_works_and_every_request_carries_the_token(host: Host, client: str) -> None:
    async with closing(host.to(client)) as connection:
        assert (await connection.call("echo", {"a": 1}, seconds=5)).result == {"said": {"a": 1}, "nothing": None}
        assert len(await connection.list_tools()) == len(host.face.toy.tools)
        assert await connection.version() == "7.7"
    assert host.face.tokens == {f"Bearer {TOKEN}"}
    assert {scope["scheme"] for scope in host.face.scopes} == {"https"}


@pytest.mark.parametrize("client", CLIENTS)
async def test_more_concurrent_calls_than_connections_are_all_answered(
    host: Host, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_slots, "_group_of", lambda *_: ("192.0.2.1", True))
    async with closing(host.to(client)) as connection, anyio.create_task_group() as group:
        for number in range(60):
            group.start_soon(partial(connection.call, "slow", {"n": number}, seconds=20))
        assert await in_thread(lambda: host.face.toy.started.wait(5))
        # The others get time to open a connection too.
        await anyio.sleep(0.3)
        host.face.toy.release.set()
    assert host.face.toy.executions["slow"] == 60


async def test_both_sides_share_one_port_one_application_and_one_lifespan(host: Host) -> None:
    async with closing(connect(host.plain, lean=True)) as connection:
        assert (await connection.call("echo", {}, seconds=5)).ok
    assert await in_thread(lambda: get(f"{host.plain}/scheme")) == "http 127.0.0.1"
    assert await in_thread(lambda: get(f"http://[::1]:{host.port}/scheme")) == "http ::1"
    assert (await in_thread(lambda: get(f"{host.secure}/scheme", host.identity.pin))).startswith("https ")
    assert host.face.lifespans == 1


async def test_no_header_changes_the_scheme_or_address_of_a_connection(host: Host) -> None:
    headers = {"X-Forwarded-Proto": "http", "X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1;proto=http"}
    assert (await in_thread(lambda: get(f"{host.secure}/scheme", host.identity.pin, **headers))).startswith("https ")
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.9"}
    assert await in_thread(lambda: get(f"{host.plain}/scheme", **headers)) == "http 127.0.0.1"


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_host_with_another_key_gets_neither_call_nor_token(host: Host, tmp_path: Path, client: str) -> None:
    """A man in the middle listens at the address of the paired host."""
    with record_tls(host_identity(tmp_path / "impostor").tls()) as heard:
        host.secure = f"https://127.0.0.1:{heard.port}"
        async with closing(host.to(client)) as connection:
            with pytest.raises(errors.Unreachable, match="its key is not the one it was paired with") as refused:
                await connection.call("echo", {}, seconds=5)
        assert await in_thread(lambda: heard.done.wait(5))
    assert bytes(heard.data) == b""
    assert "anvyl hosts remove NAME" in refused.value.hint


async def test_a_reinstalled_host_is_refused_until_it_is_paired_again(host: Host, tmp_path: Path) -> None:
    old = host_identity(tmp_path / "old").pin
    async with closing(host.to(pin=old)) as connection:
        with pytest.raises(errors.Unreachable, match="its key is not"):
            await connection.list_tools()
    assert host.face.scopes == []


@pytest.mark.parametrize("client", CLIENTS)
async def test_an_expired_certificate_or_a_wrong_clock_changes_nothing(tmp_path: Path, client: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "identity").mkdir()
    write_pair(tmp_path / "identity", key, certificate_of(key, years=-3))
    async with hosted(tmp_path) as host, closing(host.to(client)) as connection:
        assert (await connection.call("echo", {}, seconds=5)).ok


async def test_nothing_older_than_tls_1_3_is_accepted(host: Host) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with host.dial() as dialled, pytest.raises(ssl.SSLError):
        await in_thread(lambda: context.wrap_socket(dialled))


async def test_plain_http_to_the_network_side_gets_no_answer(host: Host) -> None:
    with host.dial() as dialled:
        dialled.sendall(b"GET /scheme HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await in_thread(lambda: ends(dialled))
    assert b"HTTP" not in answer
    assert host.face.scopes == []


async def test_only_the_two_addresses_of_this_machine_are_plain(tmp_path: Path) -> None:
    with opened("::") as sockets:
        urls = {url_of(one) for one in sockets}
        port = sockets[0].getsockname()[1]
        assert urls == {
            f"http://127.0.0.1:{port}",
            f"http://[::1]:{port}",
            f"https://0.0.0.0:{port}",
            f"https://[::]:{port}",
        }
        assert {url_of(one) for one in sockets if is_plain(one)} == {f"http://127.0.0.1:{port}", f"http://[::1]:{port}"}


@contextmanager
def opened(address: str, port: int = 0) -> Iterator[list[socket.socket]]:
    sockets = listen(address, [port])
    try:
        yield sockets
    finally:
        for one in sockets:
            one.close()


def own_address() -> str:
    """An address of this machine on the network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.77", 9))
        except OSError:
            pytest.skip("this machine is on no network")
        address: str = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine is on no network")
    return address


@pytest.mark.parametrize("second", ["127.0.0.1", "0.0.0.0", "::", "own"])
@pytest.mark.parametrize("first", ["127.0.0.1", "0.0.0.0", "::", "own"])
def test_a_second_server_on_the_same_port_is_refused(first: str, second: str) -> None:
    """Even if both sockets may share the port, over which Linux would distribute connections."""
    first, second = (own_address() if each == "own" else each for each in (first, second))
    with opened(first) as sockets:
        port = sockets[0].getsockname()[1]
        with pytest.raises(errors.Conflict, match=f"port {port} is in use"):
            listen(second, [port])
    with opened(second, port):
        pass


def test_a_program_of_another_kind_on_the_port_is_not_displaced() -> None:
    with socket.create_server((NETWORK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(errors.Conflict, match=f"port {port} is in use on 0.0.0.0"):
            listen("0.0.0.0", [port])
        with opened("127.0.0.1", port):
            pass


@pytest.mark.parametrize("address", ["192.0.2.254", "nas.lan", "2001:db8::1", "", "0.0.0", "1.2.3.4/24", "é" * 70])
def test_an_address_that_is_not_this_machines_is_refused(address: str) -> None:
    with pytest.raises(errors.InvalidInput, match="is not an IP address of this machine") as refused:
        listen(address, [0])
    assert refused.value.hint


async def test_the_network_is_never_served_without_a_key(tmp_path: Path) -> None:
    with opened("0.0.0.0") as sockets:
        face = Face(ToyTools())
        with pytest.raises(errors.InvalidInput, match=r"cannot serve on 0\.0\.0\.0"):
            await make_server(face, face.mcp).serve(sockets)
    assert face.lifespans == 0


async def test_a_damaged_key_stops_the_start(tmp_path: Path) -> None:
    host_identity(tmp_path).key.write_bytes(b"")
    with opened("0.0.0.0") as sockets:
        face = Face(ToyTools())
        with pytest.raises(errors.ConfigInvalid, match="damaged"):
            await make_server(face, face.mcp, identity=lambda: host_identity(tmp_path)).serve(sockets)
    assert face.lifespans == 0


@pytest.mark.parametrize("address", [NETWORK, "0.0.0.0", "::"])
async def test_the_network_side_opens_while_the_server_runs(tmp_path: Path, address: str) -> None:
    async with hosted(tmp_path, "127.0.0.1") as host:
        with pytest.raises(ConnectionRefusedError):
            host.dial()
        urls = await host.server.open(address)
        assert urls == host.server.network_urls
        assert all(url.startswith("https://") and url.endswith(f":{host.port}") for url in urls)
        async with closing(host.to()) as network, closing(connect(host.plain, lean=True)) as local:
            assert (await network.call("echo", {}, seconds=5)).ok
            assert (await local.call("echo", {}, seconds=5)).ok
        assert host.face.lifespans == 1


async def test_opening_what_is_open_changes_nothing(tmp_path: Path) -> None:
    async with hosted(tmp_path, "127.0.0.1") as host:
        urls: list[list[str]] = []

        async def open_one() -> None:
            urls.append(await host.server.open(NETWORK))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(open_one)
        assert urls == [[f"https://{NETWORK}:{host.port}"]] * 5
        assert await host.server.open("127.0.0.1") == urls[0]
        assert len(await host.server.open("0.0.0.0")) == 2
        assert len(await host.server.open("127.0.0.3")) == 2
        assert len(await host.server.open("::")) == 3


async def test_a_failure_to_open_the_network_side_does_not_affect_the_server(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    host_identity(damaged).key.write_bytes(b"")
    async with hosted(tmp_path, "127.0.0.1", identity=lambda: host_identity(damaged)) as host:
        with pytest.raises(errors.ConfigInvalid, match="damaged"):
            await host.server.open(NETWORK)
        assert host.server.network_urls == []
        assert await in_thread(lambda: get(f"{host.plain}/scheme")) == "http 127.0.0.1"
    async with hosted(tmp_path, "127.0.0.1") as host:
        with socket.create_server((NETWORK, host.port)), pytest.raises(errors.Conflict):
            await host.server.open(NETWORK)
        with pytest.raises(errors.InvalidInput, match="not an IP address of this machine"):
            await host.server.open("192.0.2.254")
        assert await in_thread(lambda: get(f"{host.plain}/scheme")) == "http 127.0.0.1"


@pytest.mark.parametrize("said", [b"", b"\x16", b"\x16\x03\x01\x02\x00"], ids=["nothing", "a byte", "a beginning"])
async def test_a_stalled_handshake_is_aborted(tmp_path: Path, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.2)
    monkeypatch.setattr(connection_slots, "MAX_CONNECTIONS", 1)
    async with hosted(tmp_path) as host:
        with host.dial() as dialled:
            dialled.sendall(said)
            assert await in_thread(lambda: ends(dialled)) == b""
        async with closing(host.to()) as connection:
            assert (await connection.call("echo", {}, seconds=5)).ok


@pytest.mark.parametrize("said", [b"", b"GET /scheme HTTP/1.1\r\nHost: loc"], ids=["nothing", "half a request"])
async def test_a_client_that_sends_no_request_is_disconnected(
    tmp_path: Path, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    async with hosted(tmp_path) as host:
        with host.dial("127.0.0.1") as dialled:
            dialled.sendall(said)
            assert await in_thread(lambda: ends(dialled)) == b""
        with host.dial("127.0.0.1") as dialled:
            dialled.sendall(b"GET /scheme HTTP/1.1\r\nHost: h\r\n\r\n")
            assert await in_thread(lambda: answer(dialled)) == b"http 127.0.0.1"
            dialled.sendall(said or b"G")
            assert await in_thread(lambda: ends(dialled)) == b""


async def test_a_kept_connection_and_a_slow_body_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    request = b"POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n"
    async with hosted(tmp_path) as host:
        with host.dial("127.0.0.1") as dialled:
            for _ in range(2):
                dialled.sendall(request + b"{")
                await anyio.sleep(0.3)
                dialled.sendall(b'"":')
                assert await in_thread(lambda: answer(dialled)) == b"http 127.0.0.1"
                await anyio.sleep(0.3)


async def test_on_a_full_side_unauthenticated_connections_replace_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_slots, "MAX_CONNECTIONS", 4)
    async with hosted(tmp_path) as host:
        with ExitStack() as stack:
            first, *_ = [stack.enter_context(host.dial()) for _ in range(4)]
            assert await in_thread(lambda: ends(first)) == b""
            assert await in_thread(lambda: get(f"{host.plain}/scheme")) == "http 127.0.0.1"
            async with closing(host.to()) as connection:
                assert (await connection.call("echo", {}, seconds=5)).ok


async def test_one_network_address_gets_a_limited_number_of_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_slots, "MAX_PER_GROUP", 2)
    address = own_address()
    async with hosted(tmp_path) as host:
        with ExitStack() as stack:
            first, *_ = [stack.enter_context(host.dial(address)) for _ in range(3)]
            assert await in_thread(lambda: ends(first)) == b""
            assert (await in_thread(lambda: get(f"{host.secure}/scheme", host.identity.pin))).startswith("https")


def test_few_descriptors_make_few_slots() -> None:
    assert (ConnectionSlots(64).most, ConnectionSlots(1024).most, ConnectionSlots(1).most) == (16, 256, 1)


def test_a_server_raises_its_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 500), hard))
    try:
        assert raise_descriptor_limit() == most
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, hard)
        assert raise_descriptor_limit() == most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def idle(port: int, number: int) -> ExitStack:
    """Open this many silent connections."""
    with ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        return stack.pop_all()


def answers_within(port: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            assert '"service":"anvyl"' in get(f"http://127.0.0.1:{port}/health")
            return
        except httpx2.TransportError:
            assert time.monotonic() < until, f"no answer within {seconds} s"
            time.sleep(0.1)


def test_120_idle_connections_on_64_descriptors_are_survived_even_if_they_stay(tmp_path: Path) -> None:
    environment = {**os.environ, "ANVYL_HOME": str(tmp_path), "ANVYL_LMSTUDIO_URL": NO_MODEL}
    command = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", ANVYL_MCP, "serve", "--port", "0", "--agent-port", "0"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as node:
        try:
            assert node.stderr is not None
            assert select.select([node.stderr], [], [], READY_SECONDS)[0]
            line = node.stderr.readline().decode()
            port = int(line.split(" at ")[1].split()[0].rpartition(":")[2])
            assert resource.prlimit(node.pid, resource.RLIMIT_NOFILE)[1] == 64
            with idle(port, 120):
                answers_within(port, END_SECONDS)
            answers_within(port, END_SECONDS)
            assert node.poll() is None
            node.terminate()
            assert node.wait(END_SECONDS) == 0
        finally:
            node.kill()


def test_a_server_that_runs_out_of_descriptors_answers_again_when_they_come_back(tmp_path: Path) -> None:
    """The limit is lowered while it runs, so that the slot limit does not prevent running out."""
    with running_node("alpha", tmp_path, ANVYL_LMSTUDIO_URL=NO_MODEL) as node:
        answers_within(node.port, 5)
        in_use = len(list(Path(f"/proc/{node.process.pid}/fd").iterdir()))
        resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (in_use + 20, in_use + 20))
        with idle(node.port, 120):
            with pytest.raises(httpx2.TransportError):
                get(f"{node.url}/health")
            assert node.process.poll() is None
        answers_within(node.port, END_SECONDS)
        assert node.stop() == 0


async def test_it_stops_in_time_whatever_its_clients_do(tmp_path: Path) -> None:
    """`hosted` fails if stopping takes longer than 12 s; clients that keep a connection must not delay it."""
    context = None
    with ExitStack() as stack:
        async with hosted(tmp_path) as host:
            context = pinned_context([host.identity.pin])
            for _ in range(3):
                kept = stack.enter_context(await in_thread(lambda: context.wrap_socket(host.dial())))
                kept.sendall(b"GET /scheme HTTP/1.1\r\nHost: h\r\n\r\n")
                assert (await in_thread(partial(answer, kept))).startswith(b"https")
            silent = stack.enter_context(await in_thread(lambda: context.wrap_socket(host.dial())))
            half = stack.enter_context(host.dial())
            half.sendall(b"\x16\x03\x01")
            plain = stack.enter_context(host.dial("127.0.0.1"))
            started = time.monotonic()
        assert time.monotonic() - started < 5
        for left in (silent, half, plain):
            assert ends(left) == b""


async def test_a_running_call_is_finished_before_the_end(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host, closing(host.to()) as connection:
        toy = host.face.toy

        async def stop() -> None:
            assert await in_thread(lambda: toy.started.wait(5))
            host.server.should_exit = True
            # It no longer listens, so it is stopping.
            with anyio.fail_after(5):
                while await in_thread(listens):
                    pass
            toy.release.set()

        def listens() -> bool:
            with socket.socket() as dialled:
                return dialled.connect_ex((NETWORK, host.port)) != errno.ECONNREFUSED

        async with anyio.create_task_group() as group:
            group.start_soon(stop)
            assert (await connection.call("slow", {}, seconds=10)).ok


async def test_a_call_that_does_not_end_is_cancelled_at_the_end(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host, closing(host.to()) as connection:
        toy = host.face.toy
        host.server.config.timeout_graceful_shutdown = 1

        async def ask() -> None:
            with pytest.raises(errors.AnvylError):
                await connection.call("slow", {}, seconds=10)

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            assert await in_thread(lambda: toy.started.wait(5))
            host.server.should_exit = True
        assert toy.cancelled.is_set()


def test_another_machine_is_reached_with_a_pin_only() -> None:
    with pytest.raises(errors.Unpaired, match="not pinned") as refused:
        connect("https://nas", lean=True, token=TOKEN)
    assert "anvyl-mcp invite" in refused.value.hint
    assert "anvyl hosts add" in refused.value.hint


@pytest.mark.parametrize("url", ["http://nas", "http://192.168.1.5", "http://0.0.0.0", "http://localhost.example.org"])
def test_a_token_never_travels_in_the_open(url: str) -> None:
    with pytest.raises(errors.Unpaired, match="over https only"):
        connect(url, lean=True, token=TOKEN)


def test_a_pin_and_plain_http_contradict_each_other() -> None:
    with pytest.raises(errors.InvalidInput, match="plain http"):
        connect("http://127.0.0.1", lean=True, pin=host_pin())


def host_pin() -> str:
    return "sha256:" + "A" * 43


@pytest.mark.parametrize("pin", ["nonsense", "sha256:", "sha256:abc"])
@pytest.mark.parametrize("lean", [True, False])
def test_a_damaged_pin_is_refused_before_anything_is_sent(pin: str, lean: bool) -> None:
    with pytest.raises(errors.InvalidInput, match="is not a pin"):
        connect("https://nas", lean=lean, pin=pin)


@pytest.mark.parametrize("lean", [True, False])
async def test_on_loopback_a_token_may_travel_plain(lean: bool) -> None:
    heard: list[bytes] = []

    def note(connection: socket.socket, _: threading.Event) -> None:
        heard.append(read_request(connection))

    with faulty_server(note) as url:
        async with closing(connect(url, lean=lean, token=TOKEN)) as connection:
            with pytest.raises(errors.Unreachable):
                await connection.list_tools()
    assert f"authorization: bearer {TOKEN}".encode() in heard[0].lower()


@pytest.mark.parametrize(
    "token", [f"{TOKEN}\n", f"{TOKEN}\r\nX-Other: 1", f"Bearer {TOKEN}", "tökén-of-this-test", "\x00"]
)
def test_a_damaged_token_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(errors.InvalidInput, match="the token contains invalid characters") as refused:
        connect("https://nas", lean=True, pin=host_pin(), token=token)
    assert "of-this-test" not in json.dumps(refused.value.as_dict())


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_token_shows_in_no_log_and_no_representation(
    host: Host, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with closing(host.to(client)) as connection:
        await connection.call("echo", {}, seconds=5)
        assert TOKEN not in repr(connection)
        assert TOKEN not in repr(vars(connection).get("_client", ""))
    assert TOKEN not in caplog.text
