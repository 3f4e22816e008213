"""Compare our tools with a minimal server: time, tokens, memory.

    python benchmarks/tools.py                        0, 20 and 100 containers, 30 calls each, on DOCKER_HOST
    python benchmarks/tools.py --containers 20 --calls 10 --image busybox:latest

Containers named `anvyl-bench-…` are started and removed again; the engine should run no others. Only ratios compare
between machines: each time is also given as a multiple of the floor, a server of the bare MCP SDK with one tool that
returns docker-py's raw answer, for statistics one round of raw GETs at once.
"""

from __future__ import annotations

import argparse
import http.client
import importlib
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import docker
import psutil
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.types import TextContent

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.engine.engine import Engine

ANVYL_MCP = str(Path(sysconfig.get_path("scripts")) / "anvyl-mcp")
PREFIX = "anvyl-bench-"
BARE = """
import docker, psutil, sys, uvicorn
from mcp.server.mcpserver import MCPServer
server = MCPServer("bare")
api = docker.from_env().api
@server.tool()
def list_containers() -> str:
    return str(api.containers(all=True))
app = server.streamable_http_app()
print("INFO at http://127.0.0.1:%s" % sys.argv[1], file=sys.stderr, flush=True)
uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""


def main() -> int:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description="Compare tools with a raw GET and a bare SDK server.")
    parser.add_argument("--containers", type=int, nargs="*", default=[0, 20, 100])
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--image", default="busybox:latest")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["ANVYL_HOME"] = home
        logging.disable(logging.INFO)
        anyio.run(_tools, options.containers, options.calls, options.image)
        _processes(home)
    return 0


async def _tools(counts: Sequence[int], calls: int, image: str) -> None:
    engine = Engine()
    api = docker.from_env().api
    path = engine.socket
    assert path is not None, "the engine must be reached through a socket of this machine"
    tokens, counted = _counter()
    _say(f"engine {engine.version()['Version']}, tokens by {counted}")
    async with aclosing(Node(load({"toolsets": "all"}), serving=True)) as node, Client(node.server) as ours:
        listed = (await ours.list_tools()).tools
        words = [json.dumps([tool.name, tool.description, tool.input_schema]) for tool in listed]
        _say(f"definitions: {len(listed)} tools, {sum(map(tokens, words))} tokens")
        _say(f"{'':40}{'median ms':>10}{'x floor':>9}{'tokens':>8}")
        for count in counts:
            with _containers(api, image, count):
                for kind in _kinds(api, count):
                    await _measure(kind, ours, path, calls, tokens)
                if count:
                    await _stats(path, tokens)
    engine.close()


@dataclass(frozen=True)
class _Kind:
    """The same request to the engine, to a server with one tool, and to ours."""

    title: str
    target: str
    bare: Callable[[], Any]
    tool: str
    arguments: dict[str, Any]


def _kinds(api: docker.APIClient, count: int) -> Iterator[_Kind]:
    def everything() -> list[dict[str, Any]]:
        return list(api.containers(all=True))

    def one() -> dict[str, Any]:
        return dict(api.inspect_container(FIRST))

    def log() -> str:
        return api.logs(FIRST, tail=100).decode()

    yield _Kind(f"list {count}", "/containers/json?all=1", everything, "list_containers", {"all": True})
    if count:
        target = f"/containers/{FIRST}"
        yield _Kind(f"inspect 1 of {count}", f"{target}/json", one, "get_container_info", {"name": FIRST})
        logs = f"{target}/logs?stdout=1&stderr=1&tail=100"
        yield _Kind(f"logs of 1 of {count}", logs, log, "get_container_logs", {"name": FIRST})


async def _measure(kind: _Kind, ours: Client, path: Path, calls: int, tokens: Callable[[str], int]) -> None:
    async def raw() -> str:
        return await anyio.to_thread.run_sync(_get, path, kind.target)

    server = MCPServer("bare")
    server.add_tool(kind.bare, name="bare")
    async with Client(server) as bare:
        rows: dict[str, Callable[[], Awaitable[str]]] = {
            "raw GET": raw,
            FLOOR: lambda: _called(bare, "bare"),
            "anvyl": lambda: _called(ours, kind.tool, **kind.arguments),
        }
        await _table(kind.title, rows, FLOOR, calls, tokens)


async def _stats(path: Path, tokens: Callable[[str], int]) -> None:
    """Statistics of all running containers, compared with concurrent raw GETs; mostly the engine's sampling time."""
    running = [str(one["Id"]) for one in json.loads(_get(path, "/containers/json"))]

    def parallel() -> str:
        with ThreadPoolExecutor(len(running)) as pool:
            return "".join(pool.map(lambda one: _get(path, f"/containers/{one}/stats?stream=false"), running))

    async with AsyncExitStack() as stack:
        # A server keeps the previous sample to compare with, so each call here gets a new server.
        fresh = []
        for _ in range(STATS_CALLS + 1):
            node = await stack.enter_async_context(aclosing(Node(load(), serving=True)))
            fresh.append(await stack.enter_async_context(Client(node.server)))
            await _called(fresh[-1], "list_containers")
        rows: dict[str, Callable[[], Awaitable[str]]] = {
            ROUND: lambda: anyio.to_thread.run_sync(parallel),
            "anvyl": lambda: _called(fresh.pop(), "get_container_stats"),
        }
        await _table(f"stats of {len(running)}", rows, ROUND, STATS_CALLS, tokens)


FIRST = f"{PREFIX}0"
FLOOR, ROUND = "bare SDK (floor)", "parallel GETs (floor)"
STATS_CALLS = 3


async def _table(
    title: str,
    rows: dict[str, Callable[[], Awaitable[str]]],
    floor: str,
    calls: int,
    tokens: Callable[[str], int],
) -> None:
    """Alternate the rounds, so that other load affects all rows alike."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    answers = {name: await work() for name, work in rows.items()}
    for _ in range(calls):
        for name, work in rows.items():
            began = time.perf_counter()
            await work()
            times[name].append((time.perf_counter() - began) * 1000)
    least = statistics.median(times[floor])
    for name in rows:
        median = statistics.median(times[name])
        _say(f"{title:18}{name:22}{median:8.2f}{median / least:9.2f}{tokens(answers[name]):8}")


async def _called(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def _get(path: Path, target: str) -> str:
    connection = http.client.HTTPConnection("localhost")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.connect(str(path))
        connection.sock = opened
        connection.request("GET", target)
        return connection.getresponse().read().decode()


@contextmanager
def _containers(api: docker.APIClient, image: str, count: int) -> Iterator[None]:
    made: list[str] = []
    command = ["sh", "-c", "seq 1 100; exec sleep 100000"]
    try:
        for number in range(count):
            config = api.create_host_config(port_bindings={80: 18000 + number})
            one = api.create_container(image, name=f"{PREFIX}{number}", command=command, ports=[80], host_config=config)
            made.append(str(one["Id"]))
            api.start(one)
        yield
    finally:
        for one in made:
            api.remove_container(one, force=True)


def _processes(home: str) -> None:
    """Measure memory before the first agent request and time to the first listing, in real processes."""
    environment = {**os.environ, "ANVYL_HOME": home}
    rows = {
        "bare SDK + docker + psutil": [sys.executable, "-c", BARE, str(_free_port())],
        "anvyl-mcp serve": [ANVYL_MCP, "serve", "--port", "0", "--agent-port", "0"],
    }
    measured = {name: [_measured(command, environment) for _ in range(3)] for name, command in rows.items()}
    floor = [statistics.median(column) for column in zip(*measured["bare SDK + docker + psutil"], strict=True)]
    _say(f"{'':30}{'idle RSS MB':>12}{'x':>6}{'first listing s':>17}{'x':>6}")
    for name, runs in measured.items():
        memory, seconds = (statistics.median(column) for column in zip(*runs, strict=True))
        _say(f"{name:30}{memory:12.1f}{memory / floor[0]:6.2f}{seconds:17.2f}{seconds / floor[1]:6.2f}")


def _measured(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """Resident MB after one listing, and seconds from start to listing."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        url = process.stderr.readline().split(" at ")[1].split()[0]
        anyio.run(_first_listing, f"{url}/mcp")
        seconds = time.perf_counter() - began
        return psutil.Process(process.pid).memory_info().rss / 1e6, seconds
    finally:
        process.kill()
        process.wait()


async def _first_listing(url: str) -> None:
    while True:
        try:
            async with Client(url) as client:
                await _called(client, "list_containers")
                return
        except* OSError:
            pass
        except* Exception as group:  # the SDK's client wraps errors while the port is not open yet
            if "connect" not in str(group.exceptions).lower():
                raise
        await anyio.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _counter() -> tuple[Callable[[str], int], str]:
    """Encoder for o200k_base: tiktoken downloads its table on first use, bpe-openai includes it."""
    for module in ("tiktoken", "bpe_openai"):
        try:
            encoding = importlib.import_module(module).get_encoding("o200k_base")
        except (ImportError, OSError):
            continue
        return partial(_count, encoding), f"o200k_base ({module})"
    return lambda words: round(len(words) / 4), "characters / 4 (neither tiktoken nor bpe-openai is here)"


def _count(encoding: Any, words: str) -> int:
    return len(encoding.encode(words))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
