"""A small MCP server over real HTTP that counts its calls, and servers with faults."""

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


class ToyTools:
    """The server's tools and a record of their calls. Any thread may wait for its events."""

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
        """Create an MCP server with these tools; each start needs a new one."""
        # Without this lookup the SDK calls the listing before each call, and it would be counted.
        return Server(
            "toy",
            version="7.7",
            on_list_tools=self._list,
            on_call_tool=self._call,
            get_tool_input_schema=lambda _: None,
        )

    async def _list(self, _: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        """Return two pages, so that a client which reads only the first one fails."""
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
        error = {"code": "not_found", "message": "there is no container `web`", "hint": "did you mean `web1`?"}
        return CallToolResult(content=[_text("no")], is_error=True, _meta={protocol_keys.ERROR: error})

    async def _crash(self, _: Context, arguments: dict[str, Any]) -> CallToolResult:
        return CallToolResult(content=[_text("Error executing tool crash")], is_error=True)

    async def _steps(self, context: Context, arguments: dict[str, Any]) -> CallToolResult:
        for step in (1, 2, 3):
            await context.session.report_progress(step, 3, f"step {step}")
        return CallToolResult(content=[_text("done")])

    async def _slow(self, _: Context, arguments: dict[str, Any]) -> CallToolResult:
        self.started.set()
        while not self.release.is_set():  # noqa: ASYNC110  another thread sets it
            await anyio.sleep(0.005)
        return CallToolResult(content=[_text("done")])

    async def _slow_steps(self, context: Context, arguments: dict[str, Any]) -> CallToolResult:
        await context.session.report_progress(1, None, "begun")
        return await self._slow(context, arguments)

    async def _large(self, _: Context, arguments: dict[str, Any]) -> CallToolResult:
        return CallToolResult(content=[_text("x" * arguments["size"])])

    async def _bewildering(self, _: Context, arguments: dict[str, Any]) -> CallToolResult:
        """Violate the output schema, like a host that was updated after it was listed."""
        return CallToolResult(content=[_text("new")], structured_content={"renamed": 1})


def _text(words: str) -> TextContent:
    return TextContent(type="text", text=words)


def _listed(name: str) -> Tool:
    schema = {"type": "object", "properties": {"old": {"type": "integer"}}, "required": ["old"]}
    meta = {"toolset": "toys", "scope": "read", "safety": "reads", "say": [f"{name} please"], "seconds": 12}
    return Tool(
        name=name,
        description=f"Tool {name}.",
        input_schema={"type": "object", "properties": {}},
        output_schema=schema if name == "bewildering" else None,
        annotations=ToolAnnotations(read_only_hint=True),
        _meta={protocol_keys.TOOL: meta} if name == "echo" else None,
    )


class ToyServer:
    """The tools served on a loopback port; can be stopped, killed and restarted on the same port."""

    def __init__(self, toy: ToyTools) -> None:
        self.toy = toy
        self.port = 0
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """MCP endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"

    def start(self) -> None:
        """Listen, on the same port as before a restart."""
        # With IPPROTO_TCP asyncio turns off Nagle; otherwise each response waits 40 ms.
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
        """Shut down as after SIGTERM."""
        if self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
            self._thread = None

    def kill(self) -> None:
        """Die as after SIGKILL: reset every connection without a response."""
        self._loop.call_soon_threadsafe(self._reset)
        self.stop()

    def _reset(self) -> None:
        self._server.force_exit = True
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()


@contextmanager
def serve_toy(toy: ToyTools) -> Iterator[ToyServer]:
    """Serve the tools over HTTP."""
    host = ToyServer(toy)
    host.start()
    try:
        yield host
    finally:
        toy.release.set()
        host.stop()


Behaviour = Callable[[socket.socket, threading.Event], None]


def silent(_: socket.socket, leave: threading.Event) -> None:
    """Accept the connection and never respond."""
    leave.wait()


def hang_up(connection: socket.socket, _: threading.Event) -> None:
    """Read the request and close the connection."""
    read_request(connection)


def respond_with(data: bytes) -> Behaviour:
    """Read the request and respond with `data`."""

    def answer(connection: socket.socket, _: threading.Event) -> None:
        read_request(connection)
        connection.sendall(data)

    return answer


def http_response(status: str, kind: str, body: str) -> bytes:
    """Serialize an HTTP response."""
    content = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    return head.encode() + content


def read_request(connection: socket.socket) -> bytes:
    """Read one complete request."""
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
def faulty_server(behaviour: Behaviour) -> Iterator[str]:
    """URL of a server that handles every connection with `behaviour`."""
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
    """URL of a listener whose backlog is full, so that new connections get no SYN-ACK (on Linux)."""
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
    """A loopback port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
