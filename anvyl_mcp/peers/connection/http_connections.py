"""HTTP connections that another thread can abort, and a pool that keeps some of them alive between calls."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from urllib.parse import urlsplit

MOST_CONNECTIONS = 10
"""Open connections to a host on another machine, which allows 32 per client address; this also limits the burst at one
that has just started."""
MOST_IDLE = 10
IDLE_SECONDS = 4
"""Less than the 5 s after which common servers drop an idle connection: a call must not meet one being closed."""
CONNECT_SHARES = (0.125, 0.25, 0.625)
"""Shares of the connect timeout for successive attempts: the kernel resends a lost SYN only after 1 s and 3 s, so a new
attempt is faster."""


class AbortableConnection(HTTPConnection):
    """One connection to one host."""

    def __init__(self, url: str, context: ssl.SSLContext | None, seconds: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        super().__init__(parts.hostname, parts.port or (443 if context else 80))
        self._path = parts.path
        self._context = context
        self._seconds = seconds
        self._socket: socket.socket | None = None
        self._aborted = False

    def connect(self) -> None:
        """Try the host's addresses in turn; each gets an equal share of the time."""
        if self.sock is not None:
            return
        until = time.monotonic() + self._seconds
        addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for position, (family, kind, protocol, _, address) in enumerate(addresses, start=1):
            share = max(until - time.monotonic(), 0.05) / (len(addresses) - position + 1)
            try:
                self._try(partial(socket.socket, family, kind, protocol), address, share)
            except OSError:
                self.close()
                if position == len(addresses) or self._aborted:
                    raise
            else:
                return

    def post(self, body: bytes, headers: dict[str, str]) -> HTTPResponse:
        """Send one request and read the headers of its response."""
        self.request("POST", self._path, body, headers)
        return self.getresponse()

    def abort(self) -> None:
        """Unblock the thread that waits on this connection. Safe to call from any thread."""
        self._aborted = True
        if self._socket is not None:
            with suppress(OSError):
                # Not SSLSocket.shutdown, which drops the TLS state that the reading thread still uses.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def is_idle(self) -> bool:
        """Whether the connection is open and has no unread data, so that it can be reused."""
        if self.sock is None:
            return False
        self.sock.settimeout(0)
        try:
            socket.socket.recv(self.sock, 1, socket.MSG_PEEK)
        except BlockingIOError:
            self.sock.settimeout(None)
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close the connection and its socket."""
        super().close()
        if self._socket is not None:
            self._socket.close()

    def _try(self, make: Callable[[], socket.socket], address: tuple[object, ...] | str, seconds: float) -> None:
        until = time.monotonic() + seconds
        plain = self._reached(make, address, seconds)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            plain.settimeout(max(until - time.monotonic(), 0.05))
            secure = self._context.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock = self._socket = secure
            secure.do_handshake()
        self.sock.settimeout(None)

    def _reached(
        self, make: Callable[[], socket.socket], address: tuple[object, ...] | str, seconds: float
    ) -> socket.socket:
        for part in CONNECT_SHARES:
            plain = make()
            self.sock = self._socket = plain
            if self._aborted:
                raise ConnectionAbortedError
            plain.settimeout(seconds * part)
            try:
                plain.connect(address)
                break
            except TimeoutError:
                if part == CONNECT_SHARES[-1]:
                    raise
                plain.close()
        return plain


class ConnectionPool:
    """The connections to one host."""

    def __init__(self, url: str, context: ssl.SSLContext | None, seconds: float) -> None:
        self.url = url
        self._context = context
        self._seconds = seconds
        self._lock = threading.Lock()
        self._idle: list[tuple[float, AbortableConnection]] = []
        self._closed = False

    def take(self) -> AbortableConnection:
        """Return an idle connection, or a new one that is not open yet."""
        while True:
            with self._lock:
                if not self._idle:
                    return AbortableConnection(self.url, self._tls(), self._seconds)
                since, connection = self._idle.pop()
            if time.monotonic() - since < IDLE_SECONDS and connection.is_idle():
                return connection
            connection.close()

    def give(self, connection: AbortableConnection) -> None:
        """Take back a connection whose response was read completely."""
        with self._lock:
            if connection.sock is not None and not self._closed and len(self._idle) < MOST_IDLE:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def close(self) -> None:
        """Close idle connections, and those under way as they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _tls(self) -> ssl.SSLContext | None:
        if self._context is None and self.url.startswith("https:"):
            self._context = ssl.create_default_context()
        return self._context
