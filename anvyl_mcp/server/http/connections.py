"""Which connections a server takes, and for how long it waits for what they want to say."""

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

from anvyl_mcp.server.auth.local_trust import Seen
from anvyl_mcp.server.http.connection_places import Place, Places

MOST_DESCRIPTORS = 65_536
HANDSHAKE_SECONDS = 10
HEAD_SECONDS = 5
"""What a client gets to say what it wants; uvicorn would wait for ever."""
STRANGER_SECONDS = 5
"""How long a connection stays open after an answer while its caller has proved nothing."""
CLOSE_SECONDS = 5
"""What a TLS client gets to take the end of an answer and say goodbye."""
GOODBYE_SECONDS = 1
SEEN = "anvyl.seen"
"""Where a connection's memory stands in the state of an ASGI scope."""
BURST = 64
BREATH_SECONDS = 0.5


def raise_descriptor_limit() -> int:
    """How many descriptors this process may open, after asking for as many as it may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, wanted = (MOST_DESCRIPTORS if each == resource.RLIM_INFINITY else each for each in (soft, hard))
    wanted = min(wanted, MOST_DESCRIPTORS)
    if wanted > soft:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return soft


class HttpConnection(H11Protocol):
    """One client's connection: it must say what it wants in time, and gives its place back when it ends."""

    def __init__(self, *args: Any, place: Place, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Every request's scope gets a copy of this state, and in it the one object of this connection.
        self._seen = Seen(admit=self._admit)
        self.app_state = {**self.app_state, SEEN: self._seen}
        self._place = place
        self.timeout_keep_alive = STRANGER_SECONDS
        self._head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        """Begin, and wait for a request."""
        super().connection_made(transport)
        self._seen.accepted = transport.get_extra_info("socket")
        self._place.close = transport.abort
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request, which may begin as late as keep-alive lets it."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_watching()
        self._place.leave()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close if idle; a TLS client that does not answer the goodbye is not waited for."""
        super().shutdown()
        if self.transport.is_closing():
            self.loop.call_later(GOODBYE_SECONDS, self.transport.abort)

    def _admit(self) -> None:
        self._place.admit()
        self.timeout_keep_alive = self.config.timeout_keep_alive

    def _watch(self) -> None:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        resting = cycle is None or cycle.response_complete
        self._place.busy = cycle is not None and not cycle.response_complete and not cycle.more_body
        if not resting or self.timeout_keep_alive_task is not None:
            self._stop_watching()
        elif self._head_due is None:
            self._head_due = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_watching(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


def seen_on(scope: Mapping[str, Any]) -> Seen:
    """What is known of the caller on the connection that a request came over; nothing if another server took it in."""
    found = scope.get("state", {}).get(SEEN)
    return found if isinstance(found, Seen) else Seen()


class Listener:
    """Accepts the connections of one socket, as long as there are places and descriptors.

    In the place of asyncio's server, which takes what comes, lets a TLS handshake last a minute, and reports each
    failed `accept` of a process out of descriptors to a log that may need a descriptor itself.
    """

    def __init__(
        self,
        opened: socket.socket,
        places: Places,
        connection: Callable[[Place], HttpConnection],
        tls: Callable[[], ssl.SSLContext] | None,
    ) -> None:
        self._socket = opened
        self._places = places
        self._connection = connection
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[Any]] = set()
        self._closed = False
        opened.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Take no more connections, and drop those whose handshake is not done."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._socket)
            self._socket.close()
            for task in self._beginning:
                task.cancel()

    async def wait_closed(self) -> None:
        """Wait for the end of those."""
        if self._beginning:
            await asyncio.wait(self._beginning)

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(BURST):
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # Out of descriptors or memory: the others that wait have to wait until something was closed.
                self._loop.remove_reader(self._socket)
                self._loop.call_later(BREATH_SECONDS, self._listen)
                return
            place = self._places.take(address[:2], self._socket.getsockname()[:2])
            if place is None:
                accepted.close()
                continue
            make = partial(self._connection, place)
            task = self._loop.create_task(self._loop.connect_accepted_socket(make, accepted, **self._secure()))
            place.close = task.cancel
            self._beginning.add(task)
            task.add_done_callback(partial(self._begun, accepted, place))

    def _secure(self) -> dict[str, Any]:
        """How the next connection is protected."""
        if self._tls is None:
            return {}
        times = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": CLOSE_SECONDS}
        return {"ssl": self._tls(), **times}

    def _begun(self, accepted: socket.socket, place: Place, task: asyncio.Task[Any]) -> None:
        self._beginning.discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            accepted.close()
            place.leave()
        # A handshake that fails or takes too long is no news: strangers knock at open ports all day.
        if error is not None and not isinstance(error, OSError):
            self._loop.call_exception_handler({"message": "a connection could not begin", "exception": error})
