"""`anvyl-mcp serve` as a process: start, discovery by other commands, invalid options, shutdown."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from typer.testing import CliRunner

from anvyl_mcp import __version__
from anvyl_mcp.cli.programs import host
from anvyl_mcp.core import serve_lock
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import (
    ANVYL_MCP,
    NO_MODEL,
    PYTHON,
    READY_SECONDS,
    CommandResult,
    ServingNode,
    anvyl,
    run_program,
    running_node,
)

END_SECONDS = 12
"""Time for a server to exit after SIGTERM: 10 s for running calls, and a margin."""


@contextmanager
def started(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start `anvyl-mcp serve` and return it with the line that it prints when ready."""
    serve = subprocess.Popen(
        [ANVYL_MCP, "serve", *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield serve, line_of(serve.stderr)
    finally:
        serve.kill()
        serve.communicate()


def line_of(stream: IO[bytes] | None) -> str:
    """Wait for the next line."""
    assert stream is not None
    assert select.select([stream], [], [], READY_SECONDS)[0], "no output"
    return stream.readline().decode()


def urls_in(line: str) -> list[str]:
    return [word for word in line.split() if word.startswith("http://")]


def serve_here(*arguments: str) -> CommandResult:
    """Run `anvyl-mcp serve` in this process, for options that it rejects."""
    done = CliRunner().invoke(host.app, ["serve", *arguments], catch_exceptions=False)
    return CommandResult(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServingNode]:
    """A server with its own home, without Docker."""
    with running_node("alpha", tmp_path, ANVYL_LMSTUDIO_URL=NO_MODEL) as node:
        yield node


def test_it_prints_its_url_and_both_ports_serve_every_route(free_port: int) -> None:
    with started("--name", "alpha", "--port", "0", "--agent-port", str(free_port)) as (serve, line):
        urls = urls_in(line)
        for url in urls:
            with httpx.Client(base_url=url) as client:
                answers = [client.get(path) for path in ("/health", "/agent/info", "/mcp")]
                answers += [client.post(path, json={}) for path in ("/agent/process", "/mcp")]
            assert [answer.status_code for answer in answers] == [200, 200, 400, 422, 400], url
        serve.terminate()
        out, _ = serve.communicate(timeout=END_SECONDS)

    assert line == f"serving alpha at {urls[0]} and {urls[1]} (this machine only)\n"
    assert urls[1] == f"http://127.0.0.1:{free_port}"
    assert (serve.returncode, out) == (0, b"")


def test_the_same_number_for_both_ports_opens_one_port(free_port: int) -> None:
    with started("--port", str(free_port), "--agent-port", str(free_port)) as (_, line):
        assert urls_in(line) == [f"http://127.0.0.1:{free_port}"]


def test_it_listens_on_both_loopback_addresses(node: ServingNode) -> None:
    addresses = ["127.0.0.1", *(["[::1]"] if has_ipv6_loopback() else [])]

    for address in addresses:
        assert httpx.get(f"http://{address}:{node.port}/health").status_code == 200


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_without_docker_it_is_degraded(node: ServingNode) -> None:
    answer = httpx.get(f"{node.url}/health")

    assert answer.status_code == 200
    health = answer.json()
    assert (health["status"], health["service"], health["version"]) == ("degraded", "anvyl", __version__)
    assert "no Docker engine is running on this host" in health["checks"]["engine"]


def test_with_docker_it_is_healthy(engine: RealEngine, tmp_path: Path) -> None:
    with running_node("alpha", tmp_path, engine) as node:
        health = httpx.get(f"{node.url}/health").json()

    assert (health["status"], health["checks"]["engine"]) == ("healthy", "ok")


def test_its_file_has_its_url(node: ServingNode, tmp_path: Path) -> None:
    expected = {"pid": node.process.pid, "name": "alpha", "url": node.url, "version": __version__}
    written = json.loads((tmp_path / "run" / "serve.json").read_text(encoding="utf-8"))
    found = serve_lock.find_server(tmp_path / "run")

    assert expected.items() <= written.items()
    assert found is not None
    assert (found.pid, found.name, found.url, found.version) == tuple(expected.values())

    assert node.stop() == 0
    assert serve_lock.find_server(tmp_path / "run") is None
    assert not (tmp_path / "run" / "serve.json").exists()


def test_commands_use_the_running_server_or_else_work_in_memory(
    engine: RealEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the server can reach the engine, and only the server has the name `alpha`."""
    engine.run("web")
    monkeypatch.setenv("ANVYL_NAME", "beta")
    with running_node("alpha", tmp_path, engine) as node:
        monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        used = anvyl("ps", "--json")
        node.stop()
        alone = anvyl("ps", "--json")

    assert used.code == 0
    assert [one["name"] for one in used.json["hosts"]["alpha"]["result"]["containers"]] == ["web"]
    assert list(alone.json["hosts"]) == ["beta"]
    assert alone.json["hosts"]["beta"]["code"] == "engine_missing"


def test_a_new_server_starts_after_one_was_killed(node: ServingNode, tmp_path: Path) -> None:
    node.kill()

    assert (tmp_path / "run" / "serve.json").exists()
    assert "alpha" not in anvyl("hosts", "list", "--json").json["hosts"]
    node.start()
    assert "alpha" in anvyl("hosts", "list", "--json").json["hosts"]


def test_a_second_server_is_refused_and_the_first_one_named(node: ServingNode) -> None:
    done = serve_here("--port", "0", "--agent-port", "0")

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: anvyl-mcp is already running at {node.url} (process {node.process.pid})\nhint:")
    assert "ANVYL_HOME" in done.err
    assert httpx.get(f"{node.url}/agent/info").json()["host_id"] == "alpha"


@pytest.mark.parametrize("flag", ["--port", "--agent-port"])
def test_a_port_in_use_is_an_error(flag: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"--port": "0", "--agent-port": "0", flag: str(port)}
        words = [word for pair in ports.items() for word in pair]
        done = serve_here(*words)

    assert (done.code, done.out) == (1, "")
    assert f"error: port {port} is in use on 127.0.0.1\nhint:  choose another with --port" in done.err
    assert serve_lock.find_server(tmp_path / "run") is None


@pytest.mark.parametrize("address", ["192.0.2.1", "nas.lan"])
def test_an_address_of_another_machine_is_rejected(address: str) -> None:
    done = serve_here("--host", address, "--port", "0", "--agent-port", "0")

    assert (done.code, done.out) == (2, "")
    assert "error:" in done.err and address in done.err and "hint:" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", "70000"), "--port is `70000`, which is not a port number"),
        (("--agent-port", "-1"), "--agent-port is `-1`, which is not a port number"),
        (("--name", "my host"), "`my host` cannot be a host name"),
        (("--name", "all"), "`all` cannot be a host name"),
    ],
)
def test_invalid_flags_are_rejected(arguments: tuple[str, ...], message: str) -> None:
    done = serve_here(*arguments)

    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_an_unwritable_home_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ANVYL_HOME", str(tmp_path / "file"))

    done = serve_here()

    assert (done.code, done.out) == (1, "")
    assert "error:" in done.err and "hint:" in done.err


def call_in_thread(node: ServingNode, command: str) -> tuple[threading.Thread, list[httpx.Response]]:
    """Send `execute_command` from a thread, like an MCP client of 2026-07-28."""
    envelope = {"protocolVersion": "2026-07-28", "clientCapabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "execute_command",
            "arguments": {"command": command},
            "_meta": {f"io.modelcontextprotocol/{key}": value for key, value in envelope.items()},
        },
    }
    headers = {
        **node.headers,
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "execute_command",
    }
    answers: list[httpx.Response] = []

    def ask() -> None:
        try:
            answers.append(httpx.post(f"{node.url}/mcp", json=body, headers=headers, timeout=60))
        except httpx.HTTPError:
            return

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, answers


def start_and_release_pipes(folder: Path) -> tuple[Path, Path]:
    """Two named pipes: one signals that the command is running, the other lets it continue."""
    started, release = folder / "started", folder / "release"
    os.mkfifo(started)
    os.mkfifo(release)
    return started, release


def test_a_running_call_finishes_after_sigterm(node: ServingNode, tmp_path: Path) -> None:
    started, release = start_and_release_pipes(tmp_path)
    thread, answers = call_in_thread(node, f"sh -c 'echo > {started}; cat {release}; echo done'")
    started.read_text(encoding="utf-8")
    node.process.send_signal(signal.SIGTERM)
    until_nothing_listens(node)
    assert node.process.poll() is None
    release.write_text("", encoding="utf-8")
    thread.join(END_SECONDS)

    assert node.process.wait(END_SECONDS) == 0
    assert '"stdout":"done\\n"' in answers[0].text.replace(" ", "")


def until_nothing_listens(node: ServingNode) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", node.port), END_SECONDS).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.02)  # there is no event for a handled signal


def test_a_hanging_call_does_not_block_the_shutdown(node: ServingNode, tmp_path: Path) -> None:
    started, release = start_and_release_pipes(tmp_path)
    thread, _ = call_in_thread(node, f"sh -c 'echo $$ > {started}; cat {release}'")
    child = int(started.read_text(encoding="utf-8"))
    node.process.send_signal(signal.SIGTERM)

    assert node.process.wait(END_SECONDS) == 0
    thread.join(END_SECONDS)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_an_open_stream_does_not_block_the_shutdown(node: ServingNode) -> None:
    """Clients of the handshake protocols keep a stream open until they exit."""
    with httpx.Client(base_url=node.url, headers={"Accept": "application/json, text/event-stream"}) as client:
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        opened = client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello})
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        with client.stream("GET", "/mcp", headers=session) as stream:
            assert stream.status_code == 200
            node.process.send_signal(signal.SIGTERM)
            assert node.process.wait(5) == 0


def test_ctrl_c_exits_with_130(node: ServingNode) -> None:
    node.process.send_signal(signal.SIGINT)

    assert node.process.wait(END_SECONDS) == 130


class Stdio:
    """A `serve --stdio` process, driven line by line."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [ANVYL_MCP, "serve", "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.lines: list[str] = []

    def send(self, *messages: dict[str, Any] | str) -> None:
        assert self.process.stdin is not None
        for message in messages:
            line = message if isinstance(message, str) else json.dumps({"jsonrpc": "2.0", **message})
            self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def answer(self, number: int) -> dict[str, Any]:
        """Return the response with an id, and keep the messages before it."""
        while True:
            self.lines.append(line_of(self.process.stdout))
            message: dict[str, Any] = json.loads(self.lines[-1])
            if message.get("id") == number:
                return message


def test_stdio_only_carries_the_protocol() -> None:
    """Programs that a tool starts neither write to stdout nor read from stdin."""
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    loud = {"name": "execute_command", "arguments": {"command": "sh -c 'echo out; echo err >&2; cat'"}}
    with (stdio := Stdio()).process:
        stdio.send({"id": 1, "method": "initialize", "params": hello})
        assert stdio.answer(1)["result"]["serverInfo"]["version"] == __version__
        stdio.send({"method": "notifications/initialized"}, "this is no JSON")
        stdio.send({"id": 2, "method": "tools/call", "params": loud})
        assert stdio.answer(2)["result"]["structuredContent"]["stdout"] == "out\n"
        stdio.send({"id": 3, "method": "tools/call", "params": {"name": "list_containers", "arguments": {}}})
        assert stdio.answer(3)["result"]["isError"] is True
        stdio.send({"id": 4, "method": "no/such/method"})
        assert "error" in stdio.answer(4)
        out, err = stdio.process.communicate(timeout=END_SECONDS)

    assert stdio.process.returncode == 0
    for line in [*stdio.lines, *out.decode().splitlines()]:
        assert json.loads(line)["jsonrpc"] == "2.0"
    assert b"Traceback" not in err


def test_stdio_servers_run_in_parallel_with_an_http_server(node: ServingNode) -> None:
    with Stdio().process as one, Stdio().process as other:
        one.communicate(timeout=END_SECONDS)
        other.communicate(timeout=END_SECONDS)

    assert (one.returncode, other.returncode) == (0, 0)
    assert httpx.get(f"{node.url}/health").status_code == 200


def test_help_lists_the_options_of_serve() -> None:
    done = serve_here("--help")

    assert done.code == 0
    for flag in ("--host", "--port", "--agent-port", "--name", "--stdio"):
        assert flag in done.out


def test_serve_runs_on_the_event_loop_of_the_caller() -> None:
    """`serve` does not change the signal handlers of the caller."""
    script = """
import asyncio, os, signal
from anvyl_mcp.app.serve import serve
from anvyl_mcp.core.settings import load

before = signal.getsignal(signal.SIGTERM)
ready = lambda urls: os.kill(os.getpid(), signal.SIGTERM)
interrupted = asyncio.run(serve(load({"port": 0, "agent_port": 0}), on_ready=ready))
assert interrupted is False
assert signal.getsignal(signal.SIGTERM) is before
"""
    done = run_program("-c", script, program=PYTHON)

    assert (done.code, done.err) == (0, "")
