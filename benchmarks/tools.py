"""What our tools cost beside the least that any server could: time, tokens, memory.

    python benchmarks/tools.py                        0, 20 and 100 containers, 30 calls each, on DOCKER_HOST
    python benchmarks/tools.py --containers 20 --calls 10 --image busybox:latest

Containers named `anvyl-bench-…` are created (not started) and removed again. Only ratios compare between machines: each
time is also given as a multiple of the floor, a server of the bare MCP SDK whose one tool returns docker-py's raw list.
"""

from __future__ import annotations

import argparse
import http.client
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
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import docker
import psutil
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.types import TextContent

from anvyl_mcp.app import Node
from anvyl_mcp.server.engine import Engine
from anvyl_mcp.settings import load

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
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Tools beside a raw GET and a bare SDK server.")
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
    async with aclosing(Node(load(), serving=True)) as node, Client(node.server) as ours, Client(_bare(api)) as bare:
        listed = (await ours.list_tools()).tools
        words = [json.dumps([tool.name, tool.description, tool.input_schema]) for tool in listed]
        _say(f"definitions: {len(listed)} tools, {sum(map(tokens, words))} tokens")
        _say(f"{'':36}{'median ms':>10}{'x floor':>9}{'tokens':>8}")
        for count in counts:
            with _containers(api, image, count):
                await _lists(ours, bare, path, count, calls, tokens)
                if count:
                    await _ones(ours, api, path, calls, tokens)
    engine.close()


async def _lists(ours: Client, bare: Client, path: Path, count: int, calls: int, tokens: Callable[[str], int]) -> None:
    async def raw() -> str:
        return await anyio.to_thread.run_sync(_get, path, "/containers/json?all=1")

    rows: dict[str, Callable[[], Awaitable[str]]] = {
        "raw GET": raw,
        "bare SDK (floor)": lambda: _called(bare, "list_containers"),
        "anvyl list_containers": lambda: _called(ours, "list_containers", all=True),
    }
    await _table(f"{count} containers", rows, "bare SDK (floor)", calls, tokens)


async def _ones(ours: Client, api: docker.APIClient, path: Path, calls: int, tokens: Callable[[str], int]) -> None:
    name = f"{PREFIX}0"

    def inspected() -> str:
        return json.dumps(api.inspect_container(name))

    def logged() -> str:
        return api.logs(name, tail=100).decode()

    async def in_thread(work: Callable[[], str]) -> str:
        return await anyio.to_thread.run_sync(work)

    await _table(
        "  one of them",
        {"docker-py inspect": lambda: in_thread(inspected), "anvyl inspect": lambda: _called(ours, INFO, name=name)},
        "docker-py inspect",
        calls,
        tokens,
    )
    await _table(
        "  its log",
        {"docker-py logs": lambda: in_thread(logged), "anvyl logs": lambda: _called(ours, LOGS, name=name)},
        "docker-py logs",
        calls,
        tokens,
    )


INFO, LOGS = "get_container_info", "get_container_logs"


async def _table(
    title: str,
    rows: dict[str, Callable[[], Awaitable[str]]],
    floor: str,
    calls: int,
    tokens: Callable[[str], int],
) -> None:
    """Rounds in turn, so that what else the machine does meets all rows alike."""
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
        _say(f"{title:16}{name:22}{median:8.2f}{median / least:9.2f}{tokens(answers[name]):8}")


async def _called(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def _bare(api: docker.APIClient) -> MCPServer:
    server = MCPServer("bare")

    @server.tool()
    def list_containers() -> list[dict[str, Any]]:
        return list(api.containers(all=True))

    return server


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
    try:
        for number in range(count):
            config = api.create_host_config(port_bindings={80: 18000 + number})
            one = api.create_container(image, name=f"{PREFIX}{number}", command="true", ports=[80], host_config=config)
            made.append(str(one["Id"]))
        yield
    finally:
        for one in made:
            api.remove_container(one, force=True)


def _processes(home: str) -> None:
    """Memory before the first agent request, and the time to the first listing, of real processes."""
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
    """Resident MB after one listing, and seconds from the start to it."""
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
        except* Exception as group:  # the SDK's client wraps what went wrong while nobody listens yet
            if "connect" not in str(group.exceptions).lower():
                raise
        await anyio.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _counter() -> tuple[Callable[[str], int], str]:
    """o200k_base where its table is at hand, which tiktoken would have to fetch."""
    try:
        import tiktoken

        encoding = tiktoken.get_encoding("o200k_base")
    except (ImportError, OSError):
        return lambda words: round(len(words) / 4), "characters / 4 (o200k_base is not at hand)"
    return lambda words: len(encoding.encode(words)), "o200k_base"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
