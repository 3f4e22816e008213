"""Compare many hosts with one, and our server with a minimal MCP server.

    python benchmarks/fleet.py                     both, on DOCKER_HOST for the listings
    python benchmarks/fleet.py --only calls        only calls a second: no engine needed
    python benchmarks/fleet.py --only fanout --hosts 1 50

Calls: `echo` on a server of the bare MCP SDK (without logging) with the SDK's client, compared with our server with
authentication and audit log, with the SDK's client and with ours; over plain loopback and over TLS (ours with a token).
Fan-out: one listing on many hosts at once, each with its own pinned TLS connection; all hosts share one server process
and the processors of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from anvyl_mcp.app.node import open_node
from anvyl_mcp.core.settings import load
from anvyl_mcp.peers.connection import transports
from anvyl_mcp.peers.connection.tls_pinning import pinned_context

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.hosts.many_hosts import hosts_file  # noqa: E402  needs the path set above

BARE = """
import socket, sys, uvicorn
from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel
class Echoed(BaseModel):
    said: str
server = MCPServer("bare", log_level="ERROR")
@server.tool()
async def echo(text: str) -> Echoed:
    return Echoed(said=text)
class AnnouncingServer(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(sockets[0].getsockname()[1], flush=True)
one = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
one.bind(("127.0.0.1", 0))
files = dict(zip(("ssl_certfile", "ssl_keyfile"), sys.argv[1:]))
config = uvicorn.Config(server.streamable_http_app(), log_level="error", timeout_keep_alive=75, **files)
AnnouncingServer(config).run(sockets=[one])
"""
CONCURRENCY = (1, 16, 64)
Call = Callable[[], Awaitable[object]]


def main() -> int:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description="Compare many hosts with one, and our server with the bare SDK.")
    parser.add_argument("--only", choices=["calls", "fanout"])
    parser.add_argument("--hosts", type=int, nargs="*", default=[1, 10, 50, 100])
    parser.add_argument("--calls", type=int, default=600, help="calls of each kind per round (600)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all kinds; medians are shown (3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, hosts(max(options.hosts), home) as many:
        if options.only != "fanout":
            files = [str(next(Path(home).rglob(name))) for name in ("certificate.pem", "key.pem")]
            anyio.run(measure_calls, many, files, options.calls, options.rounds)
        if options.only != "calls":
            anyio.run(measure_fanout, many, options.hosts, options.rounds)
    return 0


@dataclass(frozen=True)
class Taken:
    """One round: seconds of each call and of all calls, and CPU seconds of the server."""

    each: list[float]
    whole: float
    processor: float

    @property
    def per_second(self) -> float:
        """Calls per second."""
        return len(self.each) / self.whole

    @property
    def p50(self) -> float:
        """Median time of a call in milliseconds."""
        return 1000 * statistics.median(self.each)

    @property
    def cost(self) -> float:
        """CPU milliseconds of the server per call, independent of other programs."""
        return 1000 * self.processor / len(self.each)


P50, COST = attrgetter("p50"), attrgetter("cost")


async def measure_calls(many: Mapping[str, Any], files: list[str], calls: int, rounds: int) -> None:
    """Measure calls per second of each kind, in alternating rounds; `files` are a certificate and its key."""
    async with AsyncExitStack() as stack:
        (plain_bare, plain_process), (tls_bare, tls_process) = (
            stack.enter_context(bare(*words)) for words in ((), files)
        )
        ours = psutil.Process(many["process"])
        url, pin, token = many["urls"][0], many["pin"], many["token"]
        kinds: dict[str, tuple[Call, psutil.Process]] = {}
        trusted = pinned_context([pin])
        for name, process, address, context, secret in (
            ("bare SDK, plain", plain_process, f"http://127.0.0.1:{plain_bare}", None, ""),
            ("anvyl-mcp, plain, SDK client", ours, many["plain"], None, ""),
            ("bare SDK, TLS", tls_process, f"https://127.0.0.1:{tls_bare}", trusted, ""),
            ("anvyl-mcp, TLS and token, SDK client", ours, url, trusted, token),
        ):
            client = await stack.enter_async_context(sdk(f"{address}/mcp", context, secret))
            kinds[name] = partial(client.call_tool, "echo", {"text": "hello"}), process
        for name, lean in (("our client", False), ("our lean client", True)):
            connection = transports.connect(url, lean=lean, pin=pin, token=token)
            stack.push_async_callback(connection.close)
            call = partial(connection.call, "echo", {"text": "hello"}, seconds=30)
            kinds[f"anvyl-mcp, TLS and token, {name}"] = call, ours
        for call, _ in kinds.values():
            await call()
        say(f"| {'calls':41} | at once | calls/s | p50 ms | × bare | server's processor ms | × bare |")
        for at_once in CONCURRENCY:
            taken: dict[str, list[Taken]] = {name: [] for name in kinds}
            for _ in range(rounds):
                for name, (call, process) in kinds.items():
                    taken[name].append(await hammer(call, process, calls, at_once))
            for name in kinds:
                say(row(name, at_once, taken[name], taken["bare SDK, TLS" if "TLS" in name else "bare SDK, plain"]))


def row(name: str, at_once: int, taken: list[Taken], floor: list[Taken]) -> str:
    """Print the medians of one kind next to those of its floor."""
    p50, cost = (statistics.median(map(value, taken)) for value in (P50, COST))
    over, more = (statistics.median(map(value, floor)) for value in (P50, COST))
    rate = statistics.median(one.per_second for one in taken)
    times = f"{rate:7.0f} | {p50:6.1f} | {p50 / over:6.2f} | {cost:21.2f} | {cost / more:6.2f}"
    return f"| {name:41} | {at_once:7} | {times} |"


def busy(process: psutil.Process) -> float:
    """CPU seconds that a process has used."""
    times = process.cpu_times()
    return times.user + times.system


async def hammer(call: Call, process: psutil.Process, calls: int, at_once: int) -> Taken:
    """Make `calls` calls with limited concurrency."""
    each: list[float] = []
    left = calls

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began = time.perf_counter()
            await call()
            each.append(time.perf_counter() - began)

    before, began = busy(process), time.perf_counter()
    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(worker)
    return Taken(each, time.perf_counter() - began, busy(process) - before)


async def measure_fanout(many: Mapping[str, Any], counts: list[int], rounds: int) -> None:
    """Time one listing on many hosts, cold and warm, compared with the slowest single host."""
    say(
        f"| {'hosts':>5} | client | first ms | of it our processor | warm ms | one alone ms | × one | ≤ 3 × one + 1 s |"
    )
    for lean in (True, False):
        alone = 0.0
        for count in counts:
            first, own, warm = [], [], []
            for _ in range(rounds):
                with tempfile.TemporaryDirectory() as home:
                    know(home, many, count)
                    settings = load(environ={"ANVYL_HOME": home})
                    async with open_node(settings, lean=lean) as node:
                        names = node.fleet.hosts[1:]
                        before = time.process_time()
                        first.append(await everywhere(node.fleet.call_many, names))
                        own.append(time.process_time() - before)
                        warm.append(await everywhere(node.fleet.call_many, names))
            took, ours, then = (1000 * statistics.median(times) for times in (first, own, warm))
            alone = alone or took
            reach = "met" if took <= 3 * alone + 1000 else "missed"
            times = f"{took:8.0f} | {ours:19.0f} | {then:7.0f} | {alone:12.0f} | {took / alone:5.1f}"
            say(f"| {count:5} | {'lean' if lean else 'SDK':6} | {times} | {reach:>15} |")


def know(home: str, many: Mapping[str, Any], count: int) -> None:
    """Write a hosts file with the first `count` hosts."""
    content = hosts_file(many["urls"][:count], many["pin"], many["token"])
    Path(home, "hosts.toml").write_text(content, encoding="utf-8")


async def everywhere(call_many: Callable[..., Awaitable[Mapping[str, Any]]], names: list[str]) -> float:
    """Seconds until all hosts have answered."""
    began = time.perf_counter()
    done = await call_many(names, "list_containers", {"all": True})
    took = time.perf_counter() - began
    failed = {name: one.status for name, one in done.items() if not one.ok}
    assert not failed, failed
    return took


@asynccontextmanager
async def sdk(url: str, context: ssl.SSLContext | None, token: str) -> AsyncIterator[Client]:
    """Client of the SDK as in its documentation, with a large connection pool."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    verify = context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    limits = httpx2.Limits(max_connections=64, max_keepalive_connections=64, keepalive_expiry=4)
    async with (
        httpx2.AsyncClient(verify=verify, headers=headers, limits=limits, timeout=30, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        await client.list_tools()
        yield client


@contextmanager
def bare(*files: str) -> Iterator[tuple[int, psutil.Process]]:
    """Run a server of the SDK with one tool, optionally over TLS; yields its port and process."""
    with subprocess.Popen([sys.executable, "-c", BARE, *files], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), psutil.Process(process.pid)
        finally:
            process.kill()


@contextmanager
def hosts(count: int, home: str) -> Iterator[dict[str, Any]]:
    """Run `count` of our hosts in one process; see `tests/support/hosts/many_hosts.py`."""
    command = [sys.executable, "-m", "tests.support.hosts.many_hosts", str(count)]
    environment = {**os.environ, "ANVYL_HOME": home}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield {**json.loads(process.stdout.readline()), "process": process.pid}
        finally:
            process.stdin.close()
            process.wait(20)


def say(line: str) -> None:
    """Print a line without buffering."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
