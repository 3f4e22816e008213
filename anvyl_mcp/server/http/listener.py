"""The HTTP listener of this host: plain on loopback, TLS on the network."""

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
from anvyl_mcp.server.http.connection_slots import MAX_CONNECTIONS, ConnectionSlots
from anvyl_mcp.server.http.connections import HttpConnection, Listener, raise_descriptor_limit
from anvyl_mcp.server.http.origin_check import is_loopback
from anvyl_mcp.server.protocol.listing_changes import ChangingServer

if TYPE_CHECKING:
    from anvyl_mcp.server.auth.certificate import Identity

log = logging.getLogger(__name__)

GRACE_SECONDS = 8
"""Time for running calls to finish after SIGTERM; a service manager should see the end within 10 s."""
IDLE_SECONDS = 75
"""Keep-alive timeout; uvicorn's 5 s cuts off a large result over a slow link."""
LOCAL = ("127.0.0.1", "::1")
EVERYWHERE = {"0.0.0.0": ("0.0.0.0",), "::": ("0.0.0.0", "::")}
"""Wildcard addresses, and the addresses to bind for each."""
_PORT_FLAGS = "with --port (or --agent-port if it is the agent's)"


def listen(address: str, ports: Sequence[int]) -> list[socket.socket]:
    """Open sockets on loopback for every port, on IPv4 and, if available, IPv6. Port 0 takes a free one.

    If `address` is not loopback, also open sockets on it, with the same port numbers.

    Raises:
        InvalidInput: the address is not one of this machine.
        Conflict: a port is in use.
    """
    sockets: list[socket.socket] = []
    try:
        for port in dict.fromkeys(ports):
            first = _bind("127.0.0.1", port)
            sockets.append(first)
            if socket.has_ipv6:
                sockets += _bind_ipv6(first.getsockname()[1])
        if not is_loopback(address):
            sockets += listen_on_address(sockets, address)
    except AnvylError:
        _close(sockets)
        raise
    return sockets


def listen_on_address(existing: Sequence[socket.socket], address: str) -> list[socket.socket]:
    """Open sockets on another address of this machine, with the port numbers of the `existing` ones.

    Raises:
        InvalidInput: the address is not one of this machine.
        Conflict: a port is in use there.
    """
    everywhere = address in EVERYWHERE
    ports = list(dict.fromkeys(opened.getsockname()[1] for opened in existing))
    if everywhere:
        # Linux allows a wildcard next to a specific address only if both sockets set this; sockets of other programs
        # that do not set it still conflict.
        for opened in existing:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sockets: list[socket.socket] = []
    try:
        # Skip open addresses: a second shared socket on one would get half of its connections.
        for one in [one for one in EVERYWHERE.get(address, (address,)) if one not in _addresses(existing)]:
            for port in ports:
                sockets.append(_bind(one, port, shared=everywhere))  # noqa: PERF401  those before a failure are closed
    except AnvylError:
        _close(sockets)
        raise
    return sockets


def _bind_ipv6(port: int) -> list[socket.socket]:
    try:
        return [_bind("::1", port)]
    except Conflict:
        raise
    except AnvylError:
        return []


def _bind(address: str, port: int, *, shared: bool = False) -> socket.socket:
    try:
        [(family, kind, protocol, _, where), *_] = socket.getaddrinfo(
            _normalized(address), port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
        )
    except OSError as error:
        raise _not_local(address) from error
    # An explicit protocol, because asyncio disables Nagle's algorithm (which delays by 40 ms) only for sockets with
    # IPPROTO_TCP.
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
        raise _bind_error(error, address, port) from error
    return opened


def _normalized(address: str) -> str:
    """Normalize an IP address and reject legacy forms that the system accepts, such as `0` for every address."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError as error:
        raise _not_local(address) from error


def _bind_error(error: OSError, address: str, port: int) -> AnvylError:
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            f"port {port} is in use on {address}",
            hint=f"choose another {_PORT_FLAGS}, or stop the program that uses it",
        )
    if error.errno == errno.EACCES:
        return InvalidInput(f"port {port} needs root", hint=f"choose one above 1023 {_PORT_FLAGS}")
    if error.errno == errno.EADDRNOTAVAIL:
        return _not_local(address)
    return AnvylError(
        f"{address}:{port} cannot be opened: {error.strerror}", hint="check --host, --port and --agent-port"
    )


def _not_local(address: str) -> InvalidInput:
    return InvalidInput(
        f"`{address}` is not an IP address of this machine", hint="`ip address` lists them; 0.0.0.0 stands for all"
    )


def _addresses(sockets: Sequence[socket.socket]) -> set[str]:
    return {opened.getsockname()[0] for opened in sockets}


def _close(sockets: Sequence[socket.socket]) -> None:
    for opened in sockets:
        opened.close()


def is_plain(opened: socket.socket) -> bool:
    """Whether a listening socket is served without TLS: only on loopback."""
    return opened.getsockname()[0] in LOCAL


def url_of(opened: socket.socket) -> str:
    """The base URL of a listening socket."""
    address, port = opened.getsockname()[:2]
    scheme = "http" if is_plain(opened) else "https"
    return f"{scheme}://[{address}]:{port}" if ":" in address else f"{scheme}://{address}:{port}"


class HostServer(uvicorn.Server):
    """Serves loopback and network with one application, and lets running calls finish when it stops."""

    def __init__(
        self,
        config: uvicorn.Config,
        mcp: McpServer[Any],
        on_ready: Callable[[], None],
        identity: Callable[[], Identity] | None = None,
        signals: bool = True,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._signals = signals
        self._mcp = mcp
        self._on_ready = on_ready
        self._identity = identity
        self._tls: ssl.SSLContext | None = None
        self._served: Identity | None = None
        self._served_version = (0, 0)
        self._open: list[socket.socket] = []
        self._opening = anyio.Lock()
        self.stopped_by: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Record the signal; a second Ctrl-C does not wait for running calls."""
        self.stopped_by = sig
        super().handle_exit(sig, frame)

    def stop(self) -> None:
        """Stop once running calls have finished."""
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
        """URLs served on the network, if any."""
        return [url_of(opened) for opened in self._open if not is_plain(opened)]

    async def open(self, address: str) -> list[str]:
        """Start serving `address` too; return all URLs served on the network.

        Raises:
            InvalidInput: it is not an address of this machine.
            Conflict: a port is in use there.
            ConfigInvalid: this host's key cannot be used.
        """
        async with self._opening:
            if not self._serves(_normalized(address)):
                await self._prepare(address)
                self._serve_on(listen_on_address(self._open, address))
        return self.network_urls

    def _serves(self, address: str) -> bool:
        served = _addresses(self._open)
        wanted = EVERYWHERE.get(address, (address,))
        return all(one in served or ("::" if ":" in one else "0.0.0.0") in served for one in wanted)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and call `on_ready` once requests are served."""
        outside = [opened for opened in sockets or [] if not is_plain(opened)]
        if outside:
            await self._prepare(outside[0].getsockname()[0])
        descriptors = raise_descriptor_limit()
        self._slots = {True: ConnectionSlots(descriptors), False: ConnectionSlots(descriptors)}
        # Without sockets the base class only starts the application.
        await super().startup([])
        if self.started:
            self._serve_on(sockets or [])
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let running calls finish, and close idle connections."""
        self._on_stop()
        if isinstance(self._mcp, ChangingServer):
            self._mcp.changes.close()
        # The SDK has no public way to end idle GET streams; if they stayed open, stopping would wait for every
        # older client.
        for transport in list(self._mcp.session_manager._server_instances.values()):
            transport.close_standalone_sse_stream()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def _prepare(self, address: str) -> None:
        if self._identity is None:
            raise InvalidInput(
                f"cannot serve on {address}: this server has no key and certificate",
                hint="leave --host out, and reach this host from others with ssh -N -L 4210:127.0.0.1:4200 THIS-HOST",
            )
        if self._tls is None:
            await anyio.to_thread.run_sync(self._load_key, self._identity)

    def _serve_on(self, sockets: Sequence[socket.socket]) -> None:
        connection = partial(HttpConnection, self.config, self.server_state, self.lifespan.state)
        for opened in sockets:
            plain = is_plain(opened)
            made = Listener(
                opened, self._slots[plain], lambda slot: connection(slot=slot), None if plain else self._tls_context
            )
            # The base class only calls close and wait_closed.
            self.servers.append(made)  # type: ignore[arg-type]
            self._open.append(opened)

    def _load_key(self, identity: Callable[[], Identity]) -> None:
        """Load the current key."""
        served = identity()
        self._served_version = _file_version(served)
        self._served, self._tls = served, served.tls()

    def _tls_context(self) -> ssl.SSLContext:
        """Return the TLS context for the next connection, reloading the key if it was replaced."""
        assert self._tls is not None and self._served is not None and self._identity is not None
        try:
            if _file_version(self._served) != self._served_version:
                self._load_key(self._identity)
        except (AnvylError, OSError) as error:
            log.warning("cannot load the new key, still serving the previous one: %s", error)
        return self._tls


def _file_version(identity: Identity) -> tuple[int, int]:
    found = identity.key.stat()
    return found.st_ino, found.st_mtime_ns


class _QuietCancellation:
    """Keeps uvicorn from logging a cancelled lifespan as a failure."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def quiet_send(message: Message) -> None:
            cancelled = isinstance(sys.exc_info()[1], asyncio.CancelledError)
            await send({**message, "message": ""} if cancelled and message["type"].endswith(".failed") else message)

        await self._app(scope, receive, quiet_send if scope["type"] == "lifespan" else send)


def make_server(
    app: ASGIApp,
    mcp: McpServer[Any],
    *,
    on_ready: Callable[[], None] = lambda: None,
    identity: Callable[[], Identity] | None = None,
    signals: bool = True,
    on_stop: Callable[[], None] = lambda: None,
) -> HostServer:
    """Make a server for `app`: `await server.serve(sockets)` returns after a signal or `stop`, once calls finished.

    `signals`: stop at SIGINT and SIGTERM. `on_stop`: end responses that would go on. `identity` loads the key, at first
    use and after it changed; without it, only loopback is served. The scheme of a request is `https` on the network and
    `http` on loopback; headers cannot change it.
    """
    # Otherwise sse-starlette cuts off running calls of older clients at the signal.
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]  # sse-starlette types none of it
    config = uvicorn.Config(
        _QuietCancellation(app),
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        # Otherwise anyone could fill the log with warnings about malformed requests.
        log_level="error",
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=3 * MAX_CONNECTIONS,
        server_header=False,
    )
    return HostServer(config, mcp, on_ready, identity, signals, on_stop)
