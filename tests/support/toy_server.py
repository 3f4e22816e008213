"""A small MCP server that counts what happens to it, served over real HTTP, and servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio
import uvicorn
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

from anvyl_mcp.core import protocol_keys

Context = ServerRequestContext[Any]


class Toy:
    """The server's tools, and what became of the calls. Its events may be waited for on any thread."""

    def __init__(self) -> None:
        self.executions: Counter[str] = Counter()
        self.cancellations: Counter[str] = Counter()
        self.metas: list[dict[str, Any]] = []
        self.lists = True
        self.started = threading.Event()
        self.cancelled = threading.Event()
        self.release = threading.Event()
        self.tools: dict[str, Callable[[Context, dict[str, Any]], Any]] = {
            "echo": self._echo,
            "note": self._note,
            "fail": self._fail,
            "crash": self._crash,
            "steps": self._steps,
            "slow": self._slow,
            "slow_steps": self._slow_steps,
            "large": self._large,
            "bewildering": self._bewildering,
        }

    def server(self) -> Server[Any]:
        """A new MCP server over these tools; one is needed for each start."""
        # Without a lookup of its own the SDK runs the listing before each call, which would count as one.
        return Server(
            "toy",
            version="7.7",
            on_list_tools=self._list,
            on_call_tool=self._call,
            get_tool_input_schema=lambda _: None,
        )

    async def _list(self, _: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        """Two pages, so that a client which reads only the first is found out."""
        self.executions["tools/list"] += 1
        if not self.lists:
            raise MCPError(INTERNAL_ERROR, "no listing today")
        names = sorted(self.tools)
        first = params is None or params.cursor is None
        return ListToolsResult(
            tools=[_listed(name) for name in (names[:5] if first else names[5:])],
            next_cursor="more" if first else None,
        )

    async def _call(self, context: Context, params: CallToolRequestParams) -> CallToolResult:
        if params.name not in self.tools:
            raise MCPError(INVALID_PARAMS, f"there is no tool {params.name}")
        self.executions[params.name] += 1
        self.metas.append(dict(context.meta or {}))
        try:
            result = await self.tools[params.name](context, params.arguments or {})
        except anyio.get_cancelled_exc_class():
            self.cancellations[params.name] += 1
            self.cancelled.set()
            raise
        assert isinstance(result, CallToolResult)
        return result

    async def _echo(self, _: Context, arguments: dict[str, Any]) -> CallToolResult:
        structured = {"said": arguments, "nothing": None}
        return CallToolResult(content=[_text(json.dumps(arguments))], structured_content=structured)

    async def _note(self, _: Context, arguments: dict[str, Any]) -> CallToolResult:
        return CallToolResult(content=[_text("only"), _text("words")])

    async def _fail(self, _: Context, arguments: dict[str, Any]) -> CallToolResult:
        told = {"code": "not_found", "message": "there is no container `web`", "hint": "did you mean `web1`?"}
        return CallToolResult(content=[_text("no")], is_error=True, _meta={protocol_keys.ERROR: told})

    async def _crash(self, _: Context, arguments: dict[str, Any]) -> CallToolResult:
        return CallToolResult(content=[_text("Error executing tool crash")], is_error=True)

    async def _steps(self, context: Context, arguments: dict[str, Any]) -> CallToolResult:
        for step in (1, 2, 3):
            await context.session.report_progress(step, 3, f"step {step}")
        return CallToolResult(content=[_text("done")])

    async def _slow(self, _: Context, arguments: dict[str, Any]) -> CallToolResult:
        self.started.set()
        while not self.release.is_set():  # noqa: ASYNC110  it is set by another thread
            await anyio.sleep(0.005)
        return CallToolResult(content=[_text("done")])

    async def _slow_steps(self, context: Context, arguments: dict[str, Any]) -> CallToolResult:
        await context.session.report_progress(1, None, "begun")
        return await self._slow(context, arguments)

    async def _large(self, _: Context, arguments: dict[str, Any]) -> CallToolResult:
        return CallToolResult(content=[_text("x" * arguments["size"])])

    async def _bewildering(self, _: Context, arguments: dict[str, Any]) -> CallToolResult:
        """Breaks the promise of its output schema, as a host does that was updated after it was listed."""
        return CallToolResult(content=[_text("new")], structured_content={"renamed": 1})


def _text(words: str) -> TextContent:
    return TextContent(type="text", text=words)


def _listed(name: str) -> Tool:
    schema = {"type": "object", "properties": {"old": {"type": "integer"}}, "required": ["old"]}
    told = {"toolset": "toys", "scope": "read", "safety": "reads", "say": [f"{name} please"], "seconds": 12}
    return Tool(
        name=name,
        description=f"Tool {name}.",
        input_schema={"type": "object", "properties": {}},
        output_schema=schema if name == "bewildering" else None,
        annotations=ToolAnnotations(read_only_hint=True),
        _meta={protocol_keys.TOOL: told} if name == "echo" else None,
    )


class Served:
    """The toy on a port of loopback; it may be stopped, killed and started again there."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy
        self.port = 0
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/mcp"

    def start(self) -> None:
        """Listen, on the same port as the last time."""
        # Named as TCP so that asyncio turns Nagle off; else each answer waits 40 ms.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self.toy.server().streamable_http_app(), log_level="critical", ws="none", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, args=(listener,))
        self._thread.start()
        until = time.monotonic() + 5
        while not self._server.started and time.monotonic() < until:
            time.sleep(0.005)
        assert self._server.started

    def _run(self, listener: socket.socket) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[listener])

        asyncio.run(serve())

    def stop(self) -> None:
        """End as after SIGTERM."""
        if self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
            self._thread = None

    def kill(self) -> None:
        """End as after SIGKILL: every connection is reset, nothing more is said."""
        self._loop.call_soon_threadsafe(self._reset)
        self.stop()

    def _reset(self) -> None:
        self._server.force_exit = True
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()


@contextmanager
def served(toy: Toy) -> Iterator[Served]:
    """The toy over HTTP."""
    host = Served(toy)
    host.start()
    try:
        yield host
    finally:
        toy.release.set()
        host.stop()


Behaviour = Callable[[socket.socket, threading.Event], None]


def silent(_: socket.socket, leave: threading.Event) -> None:
    """Take the request and never answer."""
    leave.wait()


def hang_up(connection: socket.socket, _: threading.Event) -> None:
    """Read the request and close."""
    read_request(connection)


def says(data: bytes) -> Behaviour:
    """Read the request and answer with `data`."""

    def answer(connection: socket.socket, _: threading.Event) -> None:
        read_request(connection)
        connection.sendall(data)

    return answer


def http(status: str, kind: str, body: str) -> bytes:
    """An HTTP answer."""
    content = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    return head.encode() + content


def read_request(connection: socket.socket) -> bytes:
    """One whole request."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (part := connection.recv(65536)):
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length and (part := connection.recv(65536)):
        body += part
    return head + b"\r\n\r\n" + body


@contextmanager
def misbehaving(behaviour: Behaviour) -> Iterator[str]:
    """The URL of a server that treats every connection so."""
    leave = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            behaviour(self.request, leave)

    class Misbehaving(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Misbehaving(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/mcp"
        finally:
            leave.set()
            server.shutdown()
            thread.join()


@contextmanager
def black_hole() -> Iterator[str]:
    """The URL of a listener whose queue is full, so that new connections get no answer at all (on Linux)."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"


def free_port() -> int:
    """A port of loopback where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
