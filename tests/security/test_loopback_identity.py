"""Identity on loopback cannot be forged: no container, helper or relay becomes the server's user with `exec`.

Each test starts what the audit used: a container on the host's network that hands its socket to a process of the
host, one that shares the host's processes too, the network helper of a container, and a relay that adds no header.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from anvyl_mcp.server.auth.local_trust import UNIDENTIFIED, ClientConnection, LoopbackTrust
from tests.support.engine.daemon import UnavailableError
from tests.support.engine.engines import RealEngine
from tests.support.engine.podman import IMAGE, private_podman
from tests.support.hosts.network import inside, namespace
from tests.support.hosts.nodes import NO_MODEL, PYTHON, ServingNode, run_program, running_node, write_hosts_file

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="containers and namespaces need root on Linux"
)
NOBODY = 65534
MACHINE = {"/": {"bind": "/machine", "mode": "ro"}}
"""Mounts that give a container a Python interpreter."""

ASK = """
import encodings.idna, http.client, json, os, sys
if len(sys.argv) > 3: os.setgroups([]); os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[3]))
client = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=20)
client.request("GET", "/pair", headers={"Host": "localhost"})
answer = client.getresponse()
print(json.dumps([answer.status, json.loads(answer.read()).get("scopes")]))
"""
HAND_OVER = """
import socket, sys
daemon = socket.socket(socket.AF_UNIX)
daemon.connect(sys.argv[2])
caller = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
caller.sendall(b"GET /pair HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
socket.send_fds(daemon, [b"x"], [caller.fileno()])
"""


@pytest.fixture(scope="module")
def host(engine: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    """A server in the network namespace of the engine and the process namespace of the tests."""
    if not engine.private:
        pytest.skip("needs an engine of the tests' own")
    home = tmp_path_factory.mktemp("host")
    with running_node("host", home, engine, inside(engine.process), ANVYL_LMSTUDIO_URL=NO_MODEL) as node:
        yield node


@contextmanager
def among(daemon: int, home: Path) -> Iterator[ServingNode]:
    """A server in the process, mount and network namespaces of a private engine, as on the same machine."""
    target = psutil.Process(daemon).children()[0].pid
    prefix = ["nsenter", f"--target={target}", "--pid", "--mount", "--net"]
    with running_node("machine", home, prefix=prefix, ANVYL_LMSTUDIO_URL=NO_MODEL) as node:
        entered = psutil.Process(node.process.pid).children(recursive=True)
        try:
            yield node
        finally:
            for one in entered:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def asking(node: ServingNode, *more: str, address: str = "127.0.0.1") -> list[str]:
    return [PYTHON, "-c", ASK, address, str(node.port), *more]


def printed(*command: str) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=True)
    return json.loads(done.stdout)


def in_container(engine: RealEngine, name: str, command: Sequence[str], **options: Any) -> str:
    """Run a program of this machine in a container on the host's network and return its output."""
    options = {"network_mode": "host", "binds": MACHINE} | options
    made = engine.run(name, ["chroot", "/machine", *command], **options)
    assert engine.api.wait(made)["StatusCode"] == 0, engine.api.logs(made)
    output: bytes = engine.api.logs(made)
    return output.decode()


def test_the_servers_user_gets_all_scopes_but_exec_and_its_commands_get_exec_too(
    host: ServingNode, engine: RealEngine
) -> None:
    engine.run("web")
    near = inside(engine.process)

    assert printed(*near, *asking(host)) == [200, ["read", "operate"]]
    assert printed(*near, *asking(host, str(NOBODY)))[0] == 401
    write_hosts_file("itself", host.url)
    refused = run_program("exec", "--host", "itself", "web", "echo", "hello", prefix=near)
    done = run_program("exec", "web", "echo", "hello", prefix=near, ANVYL_HOME=str(host.home))

    assert refused.code == 1 and "`exec_in_container` needs the scope `exec`" in refused.err
    assert "anvyl-mcp token create" in refused.err
    assert (done.code, done.out) == (0, "hello\n"), done.err


def test_a_container_that_passes_its_socket_to_a_host_process_needs_a_token(
    host: ServingNode, engine: RealEngine, tmp_path: Path
) -> None:
    """A process that accepts descriptors, like a D-Bus daemon, may hold the socket of an unknown caller."""
    path = tmp_path / "bus"
    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(str(path))
        bus.listen()
        # The server checks only after this process alone holds the socket.
        host.suspend()
        try:
            in_container(engine, "handing", [PYTHON, "-c", HAND_OVER, str(host.port), str(path)])
        finally:
            host.resume()
        served, _ = bus.accept()
        with served:
            _, [descriptor], _, _ = socket.recv_fds(served, 1, 1)

    with socket.socket(fileno=descriptor) as held:
        held.settimeout(20)
        assert held.recv(64).split()[1] == b"401"


def test_a_container_with_the_hosts_processes_and_network_needs_a_token(engine: RealEngine, tmp_path: Path) -> None:
    if not engine.private:
        pytest.skip("needs an engine of the tests' own")
    with among(engine.process, tmp_path) as node:
        answered = in_container(engine, "asking", asking(node), pid_mode="host")

    assert json.loads(answered)[0] == 401


def test_a_container_behind_a_helper_with_the_hosts_loopback_needs_a_token(tmp_path: Path) -> None:
    network = "slirp4netns:allow_host_loopback=true"
    try:
        with private_podman("podman-identity") as podman, among(podman.process, tmp_path) as node:
            options = {"network_mode": network, "binds": MACHINE, "init": False}
            answered = in_container(podman, "asking", asking(node, address="10.0.2.2"), image=IMAGE, **options)
    except UnavailableError as error:
        pytest.skip(str(error))

    assert json.loads(answered)[0] == 401


def test_a_network_helper_without_a_sandbox_needs_a_token(host: ServingNode, engine: RealEngine) -> None:
    if not shutil.which("slirp4netns"):
        pytest.skip("needs slirp4netns")
    with namespace() as walled:
        ready, tell = os.pipe()
        command = [*inside(engine.process), "slirp4netns", "--configure", f"--ready-fd={tell}", str(walled), "tap0"]
        helper = subprocess.Popen(command, pass_fds=[tell], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            os.close(tell)
            assert os.read(ready, 1) == b"1"
            assert printed(*inside(walled), *asking(host, address="10.0.2.2"))[0] == 401
        finally:
            os.close(ready)
            helper.kill()
            helper.wait()


RELAY = """
import encodings.idna, socket, sys, threading
def copy(source, to):
    while data := source.recv(65536):
        to.sendall(data)
    to.shutdown(socket.SHUT_WR)
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
while True:
    caller, _ = listening.accept()
    server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    for pair in ((caller, server), (server, caller)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
"""


def test_a_relay_run_by_root_without_headers_gives_no_exec(host: ServingNode, engine: RealEngine) -> None:
    """Such a relay cannot be distinguished from root, so root has no `exec` without a token."""
    near = inside(engine.process)
    relay = subprocess.Popen(
        [*near, PYTHON, "-c", RELAY, str(host.port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert relay.stdout is not None
        port = relay.stdout.readline().strip()
        response = printed(*near, PYTHON, "-c", ASK, "127.0.0.1", port, str(NOBODY))
        write_hosts_file("relayed", f"http://127.0.0.1:{port}")
        refused = run_program("call", "execute_command", "command=id", "--host", "relayed", "--yes", prefix=near)
    finally:
        relay.kill()
        relay.communicate()

    assert response == [200, ["read", "operate"]]
    assert refused.code == 1 and "uid=" not in refused.out + refused.err


@pytest.mark.parametrize("later", ["nothing", "another connection from its port"])
def test_a_disconnected_caller_is_not_confused_with_the_next_one_on_its_port(later: str) -> None:
    """It sends a request and resets while the server is busy; the port may then belong to a trusted user."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        first = stack.enter_context(socket.create_connection(listener.getsockname()))
        served = stack.enter_context(listener.accept()[0])
        caller, own = served.getpeername(), served.getsockname()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()
        if later != "nothing":
            stack.enter_context(socket.create_connection(own, source_address=caller))
            second = stack.enter_context(listener.accept()[0])
            assert anyio.run(LoopbackTrust().check, caller, own, ClientConnection(accepted=second)).trusted

        assert anyio.run(LoopbackTrust().check, caller, own, ClientConnection(accepted=served)) == UNIDENTIFIED
