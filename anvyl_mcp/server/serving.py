"""Listening on this host's ports until told to stop."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from mcp.server.lowlevel.server import Server as McpServer
from sse_starlette.sse import AppStatus
from starlette.types import ASGIApp

from anvyl_mcp.errors import AnvylError, Conflict, InvalidInput
from anvyl_mcp.server.guard import is_loopback

GRACE_SECONDS = 10
"""What a running call gets to end after SIGTERM."""
IDLE_SECONDS = 75
"""Kept-alive connections; with uvicorn's 5 s a large result over a slow link is cut."""


def listen(address: str, ports: Sequence[int]) -> list[socket.socket]:
    """Sockets on loopback for every port, on IPv4 and, where the machine has it, IPv6. Port 0 takes a free one.

    Raises:
        InvalidInput: the address is not loopback.
        Conflict: a port is in use.
    """
    if not is_loopback(address):
        raise InvalidInput(
            f"serving on {address} is not possible yet: only loopback is, because nothing there asks who calls",
            hint="leave --host out, and reach this host from others with ssh -N -L 4210:127.0.0.1:4200 THIS-HOST",
        )
    sockets: list[socket.socket] = []
    try:
        for port in dict.fromkeys(ports):
            first = _bind(socket.AF_INET, "127.0.0.1", port)
            sockets.append(first)
            if socket.has_ipv6:
                sockets += _second(first.getsockname()[1])
    except AnvylError:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def _second(port: int) -> list[socket.socket]:
    try:
        return [_bind(socket.AF_INET6, "::1", port)]
    except OSError:
        return []


def _bind(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    # Named, because asyncio turns Nagle's 40 ms off only for sockets that say they are TCP.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address, port))
        opened.listen(256)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"port {port} is in use on {address}",
                hint="choose another with --port and --agent-port, or stop what uses it",
            ) from error
        if error.errno == errno.EACCES:
            raise InvalidInput(f"port {port} needs root", hint="choose one above 1023 with --port") from error
        if family is socket.AF_INET6:
            raise
        raise AnvylError(f"{address}:{port} cannot be opened: {error.strerror}", hint="check --port") from error
    return opened


def url_of(opened: socket.socket) -> str:
    """The base URL of a listening socket."""
    address, port = opened.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


class HostServer(uvicorn.Server):
    """Ends idle streams of older clients at SIGTERM and lets running calls finish."""

    def __init__(self, config: uvicorn.Config, mcp: McpServer[Any], on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._mcp = mcp
        self._on_ready = on_ready
        self.stopped_by: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal; a second Ctrl-C does not wait for running calls."""
        self.stopped_by = sig
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGINT and SIGTERM; unlike the base class, return to the caller so that it can clean up."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say when requests are answered."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let running calls end, and close what is idle."""
        # The SDK has no public way to end idle GET streams; without it SIGTERM waits for every older client.
        for transport in list(self._mcp.session_manager._server_instances.values()):
            transport.close_standalone_sse_stream()
        await super().shutdown(sockets)


def server(app: ASGIApp, mcp: McpServer[Any], *, on_ready: Callable[[], None] = lambda: None) -> HostServer:
    """A server for `app`: `await server.serve(sockets)` ends at a signal or `should_exit`, running calls finished."""
    # sse-starlette would cut running calls of older clients at the signal.
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]  # sse-starlette types none of it
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=512,
        server_header=False,
    )
    return HostServer(config, mcp, on_ready)
