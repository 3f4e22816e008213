"""Circuit breaker per host: after a timeout, calls fail at once while a background task probes the host."""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

import anyio

from anvyl_mcp.core.errors import AnvylError, Refused, Timeout, Unknown, Unreachable
from anvyl_mcp.peers.connection.listing import Connection
from anvyl_mcp.peers.connection.single_flight import SingleFlight
from anvyl_mcp.peers.fleet.down_marks import Down, DownMarks
from anvyl_mcp.peers.hosts.registry import Peer

PROBE_SECONDS = 5
JITTER = 0.2
"""Random variation of the probe interval, so that hosts that went down together are not probed together."""
TRIAL_SECONDS = 1.5
"""Timeout for the first attempt of a new process at a host that was down a while ago."""
COSTLY_SECONDS = 0.5
"""Failures faster than this do not open the breaker: retrying them is cheap."""
REFUSED_RETRY_SECONDS = 0.1
"""Minimum time between attempts at a host that refuses connections."""

T = TypeVar("T")


class Breaker:
    """Decides whether a call is sent to a host. `known` returns the current hosts."""

    def __init__(self, marks: DownMarks, known: Callable[[], Iterable[Peer]]) -> None:
        self.pending_hosts: list[str] = []
        """Names of hosts with a call under way, oldest first."""
        self._marks = marks
        self._known = known
        self._down: dict[Peer, Down] = {}
        self._probes: dict[Peer, asyncio.Task[None]] = {}
        self._checked: set[Peer] = set()
        self._answered: dict[Peer, float] = {}
        self._refused: dict[Peer, float] = {}
        self._refused_retries: dict[Peer, SingleFlight] = {}

    async def ask(
        self, peer: Peer, connection: Connection, work: Callable[[], Awaitable[T]], *, force: bool = False
    ) -> T:
        """Run `work` on a host's connection, unless the host is down. `force`: even if it is.

        Raises:
            Unreachable: the host is down.
        """
        self.pending_hosts.append(peer.name)
        try:
            if not force:
                await self._ensure_reachable(peer, connection)
            began = time.monotonic()
            try:
                result = await work()
            except Unreachable as error:
                self._record_failure(peer, connection, error, time.monotonic() - began)
                raise
        finally:
            self.pending_hosts.remove(peer.name)
        self._mark_up(peer)
        self._answered[peer] = time.monotonic()
        return result

    def answered_since(self, peer: Peer, began: float) -> bool:
        """Whether a host answered any call after that moment."""
        return self._answered.get(peer, began) > began

    def is_open(self, peer: Peer) -> bool:
        """Whether calls to a host fail without being sent."""
        return peer in self._down

    async def aclose(self) -> None:
        """Stop all probes."""
        probes = list(self._probes.values())
        for probe in probes:
            probe.cancel()
        if probes:
            await asyncio.wait(probes)

    async def _ensure_reachable(self, peer: Peer, connection: Connection) -> None:
        if peer not in self._down and peer not in self._checked:
            mark = self._marks.read(peer)
            if mark is not None and mark.fresh:
                self._open(peer, connection, mark)
            elif mark is not None:
                await self._trial(peer, connection, mark)
        elif peer in self._down and not self._down[peer].fresh:
            # The probe did not run: the process was blocked at a prompt, or the machine slept.
            await self._trial(peer, connection, self._down[peer])
        if peer in self._down:
            raise self._down[peer].error()
        if peer in self._refused:
            await self._refused_retries.setdefault(peer, SingleFlight()).do(
                partial(self._retry_refused, peer, connection)
            )

    async def _retry_refused(self, peer: Peer, connection: Connection) -> None:
        """Try a host that refused connections again, at most every `REFUSED_RETRY_SECONDS`."""
        await anyio.sleep(max(self._refused.get(peer, 0) + REFUSED_RETRY_SECONDS - time.monotonic(), 0))
        try:
            await connection.version()
        except Refused:
            self._refused[peer] = time.monotonic()
            raise
        self._refused.pop(peer, None)

    async def _trial(self, peer: Peer, connection: Connection, mark: Down) -> None:
        """Probe a host that was down a while ago, with a short timeout."""
        began = time.monotonic()
        try:
            with anyio.fail_after(TRIAL_SECONDS):
                await connection.version()
        except TimeoutError:
            self._open(peer, connection, Down(mark.since, time.time(), mark.reason))
        except AnvylError as error:
            # The call that follows reports the error, unless it is a slow one.
            self._record_failure(peer, connection, error, time.monotonic() - began)
        else:
            self._mark_up(peer)

    def _record_failure(self, peer: Peer, connection: Connection, error: AnvylError, seconds: float) -> None:
        if isinstance(error, Timeout | Unknown):
            return
        if seconds < COSTLY_SECONDS or not isinstance(error, Unreachable):
            # It answered, or failed at once: another attempt is cheap.
            self._mark_up(peer)
            if isinstance(error, Refused):
                self._refused[peer] = time.monotonic()
            return
        if self.answered_since(peer, time.monotonic() - seconds):
            # Other calls were answered meanwhile: the network loses packets, but the host is up.
            return
        now = time.time()
        before = self._down.get(peer) or self._marks.read(peer)
        self._open(peer, connection, Down(before.since if before else now - seconds, now, error.message))

    def _open(self, peer: Peer, connection: Connection, down: Down) -> None:
        self._checked.discard(peer)
        self._down[peer] = down
        if not down.fresh or self._marks.read(peer) != down:
            self._marks.write(peer, down)
        if peer not in self._probes:
            # Not in a task group: it outlives the call that found the host down, and must not inherit its context.
            probe = asyncio.create_task(self._probe(peer, connection), context=contextvars.Context())
            self._probes[peer] = probe
            probe.add_done_callback(lambda _: self._probes.pop(peer, None))

    def _mark_up(self, peer: Peer) -> None:
        self._refused.pop(peer, None)
        if self._down.pop(peer, None) or peer not in self._checked:
            self._marks.remove(peer)
            self._checked.add(peer)

    async def _probe(self, peer: Peer, connection: Connection) -> None:
        """Probe a host every 5 s for as long as it is down and known."""
        spent = 0.0
        try:
            while peer in self._down:
                await anyio.sleep(max(PROBE_SECONDS * random.uniform(1 - JITTER, 1 + JITTER) - spent, 0))
                if peer not in self._known():
                    return
                began = time.monotonic()
                try:
                    await connection.version()
                except AnvylError as error:
                    self._record_failure(peer, connection, error, time.monotonic() - began)
                else:
                    self._mark_up(peer)
                spent = time.monotonic() - began
        finally:
            # A host that is no longer probed must not stay marked as down.
            self._down.pop(peer, None)
