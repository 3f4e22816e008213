"""Listening on this host's ports until told to stop: plain on loopback, TLS everywhere else."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import uvicorn
from mcp.server.lowlevel.server import Server as McpServer
from sse_starlette.sse import AppStatus
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anvyl_mcp.core.errors import AnvylError, Conflict, InvalidInput
from anvyl_mcp.server.http.connection_places import MOST_CONNECTIONS, Places
from anvyl_mcp.server.http.connections import HttpConnection, Listener, raise_descriptor_limit
from anvyl_mcp.server.http.origin_check import is_loopback

if TYPE_CHECKING:
    from anvyl_mcp.server.auth.certificate import Identity

log = logging.getLogger(__name__)

GRACE_SECONDS = 10
"""What a running call gets to end after SIGTERM."""
IDLE_SECONDS = 75
"""Kept-alive connections; with uvicorn's 5 s a large result over a slow link is cut."""
LOCAL = ("127.0.0.1", "::1")
EVERYWHERE = {"0.0.0.0": ("0.0.0.0",), "::": ("0.0.0.0", "::")}
"""Addresses that stand for all of a machine's, and what is listened on for each."""


def listen(address: str, ports: Sequence[int]) -> list[socket.socket]:
    """Sockets on loopback for every port, on IPv4 and, where the machine has it, IPv6. Port 0 takes a free one.

    When `address` is not loopback, there follow sockets on it, with the same port numbers.

    Raises:
        InvalidInput: the address is not one of this machine's.
        Conflict: a port is in use.
    """
    sockets: list[socket.socket] = []
    try:
        for port in dict.fromkeys(ports):
            first = _bind("127.0.0.1", port)
            sockets.append(first)
            if socket.has_ipv6:
                sockets += _second(first.getsockname()[1])
        if not is_loopback(address):
            sockets += listen_beside(sockets, address)
    except AnvylError:
        _close(sockets)
        raise
    return sockets


def listen_beside(mine: Sequence[socket.socket], address: str) -> list[socket.socket]:
    """Sockets on another address of this machine, with the port numbers of those that are open already.

    Raises:
        InvalidInput: the address is not one of this machine's.
        Conflict: a port is in use there.
    """
    everywhere = address in EVERYWHERE
    ports = list(dict.fromkeys(opened.getsockname()[1] for opened in mine))
    if everywhere:
        # Linux lets a wildcard stand beside a more special address only when both say so; sockets of others, which
        # do not say so, still make a conflict.
        for opened in mine:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sockets: list[socket.socket] = []
    try:
        # What may be shared could be opened twice: the system would give each half of the connections.
        for one in [one for one in EVERYWHERE.get(address, (address,)) if one not in _addresses(mine)]:
            for port in ports:
                sockets.append(_bind(one, port, shared=everywhere))  # noqa: PERF401  those before a failure are closed
    except AnvylError:
        _close(sockets)
        raise
    return sockets


def _second(port: int) -> list[socket.socket]:
    try:
        return [_bind("::1", port)]
    except Conflict:
        raise
    except AnvylError:
        return []


def _bind(address: str, port: int, *, shared: bool = False) -> socket.socket:
    try:
        [(family, kind, protocol, _, where), *_] = socket.getaddrinfo(
            _spelled(address), port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
        )
    except OSError as error:
        raise _not_mine(address) from error
    # Named, because asyncio turns Nagle's 40 ms off only for sockets that say they are TCP.
    opened = socket.socket(family, kind, protocol or socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(where)
        opened.listen(256)
    except OSError as error:
        opened.close()
        raise _not_opened(error, address, port) from error
    return opened


def _spelled(address: str) -> str:
    """The one spelling of an IP address; the system also takes `0`, which is every address, and others of old."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError as error:
        raise _not_mine(address) from error


def _not_opened(error: OSError, address: str, port: int) -> AnvylError:
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            f"port {port} is in use on {address}",
            hint="choose another with --port and --agent-port, or stop what uses it",
        )
    if error.errno == errno.EACCES:
        return InvalidInput(f"port {port} needs root", hint="choose one above 1023 with --port")
    if error.errno == errno.EADDRNOTAVAIL:
        return _not_mine(address)
    return AnvylError(f"{address}:{port} cannot be opened: {error.strerror}", hint="check --port")


def _not_mine(address: str) -> InvalidInput:
    return InvalidInput(
        f"`{address}` is not an IP address of this machine", hint="`ip address` lists them; 0.0.0.0 stands for all"
    )


def _addresses(sockets: Sequence[socket.socket]) -> set[str]:
    return {opened.getsockname()[0] for opened in sockets}


def _close(sockets: Sequence[socket.socket]) -> None:
    for opened in sockets:
        opened.close()


def is_plain(opened: socket.socket) -> bool:
    """Whether a listening socket is served without TLS: only on this machine's two own addresses."""
    return opened.getsockname()[0] in LOCAL


def url_of(opened: socket.socket) -> str:
    """The base URL of a listening socket."""
    address, port = opened.getsockname()[:2]
    scheme = "http" if is_plain(opened) else "https"
    return f"{scheme}://[{address}]:{port}" if ":" in address else f"{scheme}://{address}:{port}"


class HostServer(uvicorn.Server):
    """Serves both sides with one application, and lets running calls finish when it is told to stop."""

    def __init__(
        self,
        config: uvicorn.Config,
        mcp: McpServer[Any],
        on_ready: Callable[[], None],
        identity: Callable[[], Identity] | None = None,
        signals: bool = True,
    ) -> None:
        super().__init__(config)
        self._signals = signals
        self._mcp = mcp
        self._on_ready = on_ready
        self._identity = identity
        self._tls: ssl.SSLContext | None = None
        self._served: Identity | None = None
        self._mark = (0, 0)
        self._open: list[socket.socket] = []
        self._opening = anyio.Lock()
        self.stopped_by: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal; a second Ctrl-C does not wait for running calls."""
        self.stopped_by = sig
        super().handle_exit(sig, frame)

    def stop(self) -> None:
        """Let running calls finish, then end."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGINT and SIGTERM; unlike the base class, return to the caller so that it can clean up."""
        if not self._signals or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def network_urls(self) -> list[str]:
        """Where the network is served, if it is."""
        return [url_of(opened) for opened in self._open if not is_plain(opened)]

    async def open(self, address: str) -> list[str]:
        """Serve the network too from now on, at `address`; the URLs there.

        Raises:
            InvalidInput: it is not an address of this machine.
            Conflict: a port is in use there.
            ConfigInvalid: this host's key cannot be used.
        """
        async with self._opening:
            if not self._serves(_spelled(address)):
                await self._prepare(address)
                self._serve_on(listen_beside(self._open, address))
        return self.network_urls

    def _serves(self, address: str) -> bool:
        served = _addresses(self._open)
        wanted = EVERYWHERE.get(address, (address,))
        return all(one in served or ("::" if ":" in one else "0.0.0.0") in served for one in wanted)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say when requests are answered."""
        outside = [opened for opened in sockets or [] if not is_plain(opened)]
        if outside:
            await self._prepare(outside[0].getsockname()[0])
        descriptors = raise_descriptor_limit()
        self._places = {True: Places(descriptors), False: Places(descriptors)}
        # Without sockets of its own the base class only starts the application.
        await super().startup([])
        if self.started:
            self._serve_on(sockets or [])
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let running calls end, and close what is idle."""
        # The SDK has no public way to end idle GET streams; without it SIGTERM waits for every older client.
        for transport in list(self._mcp.session_manager._server_instances.values()):
            transport.close_standalone_sse_stream()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def _prepare(self, address: str) -> None:
        if self._identity is None:
            raise InvalidInput(
                f"serving on {address} is not possible yet: this server has no key to prove itself with",
                hint="leave --host out, and reach this host from others with ssh -N -L 4210:127.0.0.1:4200 THIS-HOST",
            )
        if self._tls is None:
            await anyio.to_thread.run_sync(self._prove, self._identity)

    def _serve_on(self, sockets: Sequence[socket.socket]) -> None:
        connection = partial(HttpConnection, self.config, self.server_state, self.lifespan.state)
        for opened in sockets:
            plain = is_plain(opened)
            made = Listener(
                opened, self._places[plain], lambda place: connection(place=place), None if plain else self._secret
            )
            # Of a server the base class only closes it and waits for its end.
            self.servers.append(made)  # type: ignore[arg-type]
            self._open.append(opened)

    def _prove(self, identity: Callable[[], Identity]) -> None:
        """Serve with the key that is there now."""
        served = identity()
        self._mark = _mark_of(served)
        self._served, self._tls = served, served.tls()

    def _secret(self) -> ssl.SSLContext:
        """How the next connection is protected: with another key as soon as that is put in place."""
        assert self._tls is not None and self._served is not None and self._identity is not None
        try:
            if _mark_of(self._served) != self._mark:
                self._prove(self._identity)
        except (AnvylError, OSError) as error:
            log.warning("the key that was served before is served still: %s", error)
        return self._tls


def _mark_of(identity: Identity) -> tuple[int, int]:
    found = identity.key.stat()
    return found.st_ino, found.st_mtime_ns


class _Calm:
    """An application whose end by cancellation, with the program that it is part of, is no failure to be reported."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def calm(message: Message) -> None:
            cancelled = isinstance(sys.exc_info()[1], asyncio.CancelledError)
            await send({**message, "message": ""} if cancelled and message["type"].endswith(".failed") else message)

        await self._app(scope, receive, calm if scope["type"] == "lifespan" else send)


def server(
    app: ASGIApp,
    mcp: McpServer[Any],
    *,
    on_ready: Callable[[], None] = lambda: None,
    identity: Callable[[], Identity] | None = None,
    signals: bool = True,
) -> HostServer:
    """A server for `app`: `await server.serve(sockets)` ends at a signal or `should_exit`, running calls finished.

    `signals`: it ends at SIGINT and SIGTERM too, besides at `stop`. `identity` is asked for when the network is first
    served; without it only loopback can be. The application is told by the scheme of a request which it is: `https` on
    the network, `http` on loopback; no header changes that.
    """
    # sse-starlette would cut running calls of older clients at the signal.
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]  # sse-starlette types none of it
    config = uvicorn.Config(
        _Calm(app),
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        # Strangers could fill the log with warnings about what they send.
        log_level="error",
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=3 * MOST_CONNECTIONS,
        server_header=False,
    )
    return HostServer(config, mcp, on_ready, identity, signals)
