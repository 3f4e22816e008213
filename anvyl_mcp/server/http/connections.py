"""Accepting HTTP connections, with limits and timeouts for unauthenticated clients."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from anvyl_mcp.server.auth.local_trust import ClientConnection
from anvyl_mcp.server.http.connection_slots import ConnectionSlot, ConnectionSlots

MAX_DESCRIPTORS = 65_536
HANDSHAKE_SECONDS = 10
HEAD_SECONDS = 5
"""Time to send the head of a request; uvicorn sets no limit."""
UNAUTHENTICATED_SECONDS = 5
"""Keep-alive of a connection whose caller is not authenticated."""
CLOSE_SECONDS = 5
"""Time for a TLS client to read the end of a response and close."""
CLOSE_NOTIFY_SECONDS = 1
CONNECTION = "anvyl.connection"
"""Key of the `ClientConnection` in the state of an ASGI scope."""
ACCEPT_BURST = 64
ACCEPT_RETRY_SECONDS = 0.5


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors as far as allowed; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, wanted = (MAX_DESCRIPTORS if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    wanted = min(wanted, MAX_DESCRIPTORS)
    if wanted > soft:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return soft


class HttpConnection(H11Protocol):
    """A client connection that must send its request in time, and releases its slot when it ends."""

    def __init__(self, *args: Any, slot: ConnectionSlot, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Each request's scope gets a copy of this state that holds the same object.
        self._connection_state = ClientConnection(admit=self._admit)
        self.app_state = {**self.app_state, CONNECTION: self._connection_state}
        self._slot = slot
        self.timeout_keep_alive = UNAUTHENTICATED_SECONDS
        self._head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        """Start waiting for a request."""
        super().connection_made(transport)
        self._connection_state.accepted = transport.get_extra_info("socket")
        self._slot.close = transport.abort
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Handle a part of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request; only the keep-alive timeout limits when it starts."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the slot."""
        self._stop_watching()
        self._slot.leave()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close if idle, without waiting long for a TLS client to answer close_notify."""
        super().shutdown()
        if self.transport.is_closing():
            self.loop.call_later(CLOSE_NOTIFY_SECONDS, self.transport.abort)

    def _admit(self) -> None:
        self._slot.admit()
        self.timeout_keep_alive = self.config.timeout_keep_alive

    def _watch(self) -> None:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        resting = cycle is None or cycle.response_complete
        self._slot.busy = cycle is not None and not cycle.response_complete and not cycle.more_body
        if not resting or self.timeout_keep_alive_task is not None:
            self._stop_watching()
        elif self._head_due is None:
            self._head_due = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_watching(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


def connection_of(scope: Mapping[str, Any]) -> ClientConnection:
    """Return the connection a request came over; an empty one if another ASGI server accepted it."""
    found = scope.get("state", {}).get(CONNECTION)
    return found if isinstance(found, ClientConnection) else ClientConnection()


class Listener:
    """Accepts the connections of one socket while slots and descriptors are available.

    Replaces asyncio's server, which has no connection limit, waits a minute for a TLS handshake, and logs each failed
    `accept` of a process without free descriptors, for which the log may need a descriptor itself.
    """

    def __init__(
        self,
        opened: socket.socket,
        slots: ConnectionSlots,
        connection: Callable[[ConnectionSlot], HttpConnection],
        tls: Callable[[], ssl.SSLContext] | None,
    ) -> None:
        self._socket = opened
        self._slots = slots
        self._connection = connection
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[Any]] = set()
        self._closed = False
        opened.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Stop accepting, and drop connections whose handshake is not done."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._socket)
            self._socket.close()
            for task in self._handshakes:
                task.cancel()

    async def wait_closed(self) -> None:
        """Wait until the dropped handshakes have ended."""
        if self._handshakes:
            await asyncio.wait(self._handshakes)

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPT_BURST):
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # Out of descriptors or memory: retry when some may have been freed.
                self._loop.remove_reader(self._socket)
                self._loop.call_later(ACCEPT_RETRY_SECONDS, self._listen)
                return
            slot = self._slots.take(address[:2], self._socket.getsockname()[:2])
            if slot is None:
                accepted.close()
                continue
            make = partial(self._connection, slot)
            task = self._loop.create_task(self._loop.connect_accepted_socket(make, accepted, **self._tls_options()))
            slot.close = task.cancel
            self._handshakes.add(task)
            task.add_done_callback(partial(self._handshake_done, accepted, slot))

    def _tls_options(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        times = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": CLOSE_SECONDS}
        return {"ssl": self._tls(), **times}

    def _handshake_done(self, accepted: socket.socket, slot: ConnectionSlot, task: asyncio.Task[Any]) -> None:
        self._handshakes.discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            accepted.close()
            slot.leave()
        # Failed and timed-out handshakes are not logged: port scanners cause them all day.
        if error is not None and not isinstance(error, OSError):
            self._loop.call_exception_handler({"message": "a connection failed to start", "exception": error})
