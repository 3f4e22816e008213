"""A host that swallows packets costs its seconds once: it is then left alone, and asked in the background."""

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
"""Part of a wait by which it varies: hosts that went down together are not asked together."""
TRIAL_SECONDS = 1.5
"""What a new process gives a host that was down a while ago, before it takes it to be down still."""
COSTLY_SECONDS = 0.5
"""A failure that took less need not be spared anybody."""
REFUSED_RETRY_SECONDS = 0.1
"""Between two attempts at a host that refuses: no more than ten a second."""

T = TypeVar("T")


class Breaker:
    """Stands between the fleet and its connections. `known` tells which hosts there are now."""

    def __init__(self, marks: DownMarks, known: Callable[[], Iterable[Peer]]) -> None:
        self.pending_hosts: list[str] = []
        """Whose answers are awaited now, by name, the oldest first."""
        self._marks = marks
        self._known = known
        self._down: dict[Peer, Down] = {}
        self._probes: dict[Peer, asyncio.Task[None]] = {}
        self._checked: set[Peer] = set()
        self._answered: dict[Peer, float] = {}
        self._refused: dict[Peer, float] = {}
        self._refused_retries: dict[Peer, SingleFlight] = {}

    async def ask(
        self, peer: Peer, connection: Connection, work: Callable[[], Awaitable[T]], *, anew: bool = False
    ) -> T:
        """Do `work` on a host's connection, unless the host is down. `anew`: try in any case.

        Raises:
            Unreachable: it is down.
        """
        self.pending_hosts.append(peer.name)
        try:
            if not anew:
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
        """Whether a host answered anybody after that moment."""
        return self._answered.get(peer, began) > began

    def is_open(self, peer: Peer) -> bool:
        """Whether a host is left alone now."""
        return peer in self._down

    async def aclose(self) -> None:
        """Ask nobody any more."""
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
            # Nobody asked in the background: the process stood still, as at a prompt, or slept.
            await self._trial(peer, connection, self._down[peer])
        if peer in self._down:
            raise self._down[peer].error()
        if peer in self._refused:
            await self._refused_retries.setdefault(peer, SingleFlight()).do(
                partial(self._retry_refused, peer, connection)
            )

    async def _retry_refused(self, peer: Peer, connection: Connection) -> None:
        """Ask a host that refused, for all who want something of it; not sooner than a moment after the last time."""
        await anyio.sleep(max(self._refused.get(peer, 0) + REFUSED_RETRY_SECONDS - time.monotonic(), 0))
        try:
            await connection.version()
        except Refused:
            self._refused[peer] = time.monotonic()
            raise
        self._refused.pop(peer, None)

    async def _trial(self, peer: Peer, connection: Connection, mark: Down) -> None:
        """Look briefly at a host that another process found down a while ago."""
        began = time.monotonic()
        try:
            with anyio.fail_after(TRIAL_SECONDS):
                await connection.version()
        except TimeoutError:
            self._open(peer, connection, Down(mark.since, time.time(), mark.reason))
        except AnvylError as error:
            # The call that follows says what is wrong, unless it would take long.
            self._record_failure(peer, connection, error, time.monotonic() - began)
        else:
            self._mark_up(peer)

    def _record_failure(self, peer: Peer, connection: Connection, error: AnvylError, seconds: float) -> None:
        if isinstance(error, Timeout | Unknown):
            return
        if seconds < COSTLY_SECONDS or not isinstance(error, Unreachable):
            # Something said no, or said it at once: asking again costs nothing.
            self._mark_up(peer)
            if isinstance(error, Refused):
                self._refused[peer] = time.monotonic()
            return
        if self.answered_since(peer, time.monotonic() - seconds):
            # Others were answered meanwhile: its line loses packets, which is no reason to leave it alone.
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
            # No task group fits: it outlives the call that found the host down, and must not carry its context along.
            probe = asyncio.create_task(self._probe(peer, connection), context=contextvars.Context())
            self._probes[peer] = probe
            probe.add_done_callback(lambda _: self._probes.pop(peer, None))

    def _mark_up(self, peer: Peer) -> None:
        self._refused.pop(peer, None)
        if self._down.pop(peer, None) or peer not in self._checked:
            self._marks.remove(peer)
            self._checked.add(peer)

    async def _probe(self, peer: Peer, connection: Connection) -> None:
        """Ask every 5 s whether it is back, for as long as it is down and known."""
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
            # However it ends: a host that nobody asks any more must not stay down.
            self._down.pop(peer, None)
