"""Records history while this host is served: one thread follows the engine's events, one takes a sample a minute."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import requests

from anvyl_mcp.core.errors import AnvylError, NotFound
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.engine_errors import engine_timeout
from anvyl_mcp.server.history import engine_events, recording, retention
from anvyl_mcp.server.history.sampler import Sampler
from anvyl_mcp.server.history.store import MICROSECOND, HistoryStore

log = logging.getLogger(__name__)

MINUTE = 60
ROLL_UP_EVERY = 600
TRIM_EVERY = 3600
CLOCK_JUMP = 90.0
"""Difference in seconds between wall clock and steady clock from which the clock was set."""
LONGEST_PAUSE = 150.0
"""Seconds between two samples after which a new span begins: the machine, or this process, was suspended."""
STEADY = 600.0
"""Nothing is deleted until the clock has not jumped for so long: a wrong date must not cost the whole history."""
STOP_SECONDS = 3.0
"""How long stopping waits for the threads, which may be waiting for the engine."""
RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)


class ChangeLog:
    """Records the changes made through this process, so that events can name who caused them."""

    def __init__(self, store: HistoryStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    def begin(self, operation: str, who: str, tool: str, objects: Sequence[str]) -> None:
        """Record that a change begins. Never raises."""
        at = int(self._clock() * MICROSECOND)
        self._store.write(lambda db: recording.begin_change(db, at, operation, who, tool, objects))

    def end(self, operation: str, outcome: str) -> None:
        """Record how a change ended. Never raises."""
        at = int(self._clock() * MICROSECOND)
        self._store.write(lambda db: recording.end_change(db, at, operation, outcome))


class Recorder:
    """The two threads of a serving process."""

    def __init__(
        self,
        engine: Engine,
        store: HistoryStore,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self._engine, self._store = engine, store
        self._clock, self._monotonic = clock, monotonic or steady_seconds
        self._sampler = sampler or Sampler(engine, slot=self._read_slot)
        self._loop: anyio.lowlevel.EventLoopToken | None = None
        self._stopping = threading.Event()
        self._span: int | None = None
        self._answer: requests.Response | None = None
        self._last: tuple[float, float] | None = None
        self._steady_since = self._monotonic()
        self._rolled_up = self._trimmed = float("-inf")

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Record in this context."""
        threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for work, name in ((self._follow, "history-events"), (self._sample, "history-samples"))
        ]
        self._store.recording = True
        self._loop = anyio.lowlevel.current_token()
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._stop, threads)

    def _stop(self, threads: Sequence[threading.Thread]) -> None:
        self._stopping.set()
        self._store.recording = False
        if self._span is not None:
            self._store.write(lambda db: recording.continue_span(db, self._span, self._now()))
        if self._answer is not None:
            _interrupt(self._answer)
        for thread in threads:
            thread.join(STOP_SECONDS)

    def tick(self) -> None:
        """Take and write the sample of one minute, and keep the database in bounds."""
        now, monotonic = self._clock(), self._monotonic()
        if self._last:
            passed = monotonic - self._last[1]
            jump = now - self._last[0] - passed
            if abs(jump) > CLOCK_JUMP:
                self._span, self._steady_since = None, monotonic
                self._store.write(lambda db: recording.add_jump(db, int(now * MICROSECOND), round(jump)))
            elif passed > LONGEST_PAUSE:
                self._span = None
        self._last = now, monotonic
        sample = self._sampler.take(monotonic)
        self._span = self._store.write(lambda db: recording.continue_span(db, self._span, int(now * MICROSECOND)))
        self._store.write(lambda db: sample.save(db, int(now) - int(now) % MINUTE))
        if monotonic - self._rolled_up >= ROLL_UP_EVERY:
            self._store.write(lambda db: retention.roll_up(db, now))
            self._rolled_up = monotonic
        if monotonic - self._trimmed >= TRIM_EVERY and monotonic - self._steady_since >= STEADY:
            self._store.write(lambda db: retention.trim(db, now))
            self._store.write(retention.limit_size)
            self._trimmed = monotonic

    def catch_up(self) -> None:
        """Record the events that the engine still remembers, and what containers show of their past."""
        catch_up(self._engine, self._store, now=self._now())

    def _now(self) -> int:
        return int(self._clock() * MICROSECOND)

    def _sample(self) -> None:
        while not self._stopping.is_set():
            try:
                self.tick()
            except OSError as error:
                log.warning("no sample for the history: %s", error)
            self._stopping.wait(MINUTE - self._clock() % MINUTE)

    def _follow(self) -> None:
        failures, complete = 0, False
        while not self._stopping.is_set():
            try:
                if not complete:
                    with self._read_slot():
                        self.catch_up()
                    complete = True
                self._record_stream()
                failures = 0
            except AnvylError as error:
                log.debug("events of the engine cannot be followed: %s", error)
                self._stopping.wait(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
                failures, complete = failures + 1, False

    def _record_stream(self) -> None:
        """Record events until the engine ends the stream.

        Raises:
            AnvylError: the engine does not answer, or the connection broke.
        """
        with ExitStack() as opening:
            opening.enter_context(self._read_slot())

            def opened(answer: requests.Response) -> None:
                self._answer = answer
                opening.close()

            since = last_event_time(self._store, self._now())
            for event in engine_events.follow(self._engine, since, opened=opened):
                if self._stopping.is_set():
                    return
                self._record(event)

    def _record(self, event: engine_events.EngineEvent) -> None:
        """Record one event, and after the end of a container its last log lines."""
        number = self._store.write(lambda db: recording.add_event(db, event))
        if number and event.action == "die":
            with self._read_slot():
                recording.save_last_lines(self._store, self._engine, event, number)

    @contextmanager
    def _read_slot(self) -> Iterator[None]:
        """Hold one of the engine's read slots, so that a hanging engine has no more threads waiting than for calls.

        Raises:
            Timeout: the engine does not answer the calls that hold the slots.
        """
        if self._loop is None:
            yield
            return
        slot = self._engine.read_slot()
        try:
            anyio.from_thread.run(slot.__aenter__, token=self._loop)
        except anyio.RunFinishedError as error:
            raise engine_timeout() from error  # the process ends
        try:
            yield
        finally:
            with suppress(anyio.RunFinishedError):
                anyio.from_thread.run(slot.__aexit__, None, None, None, token=self._loop)


def steady_seconds() -> float:
    """A clock that cannot be set, and that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def catch_up(engine: Engine, store: HistoryStore, *, now: int) -> None:
    """Record what happened while nothing was recorded, as far as the engine and its containers show it.

    Raises:
        AnvylError: the engine does not answer.
    """
    for event in engine_events.follow(engine, last_event_time(store, now), seconds=0):
        store.write(partial(recording.add_event, event=event))
    found = []
    for listed in engine.containers(all=True):
        with suppress(NotFound):
            found.append(engine.inspect(listed["Id"]))
    store.write(lambda db: recording.reconcile(db, now, found))
    ended = [one["Id"] for one in found if not one["State"].get("Running") or one["State"].get("Restarting")]
    for number, event in store.write(lambda db: recording.ends_without_lines(db, ended)) or ():
        recording.save_last_lines(store, engine, event, number)


def last_event_time(store: HistoryStore, now: int) -> int:
    """When the newest known event happened, in microseconds; `now` if the history cannot be read or is ahead."""
    with suppress(AnvylError):
        return min(store.read(recording.last_event_time), now)
    return now


def _interrupt(answer: requests.Response) -> None:
    """End a response that another thread is reading: closing it would wait for the next event."""
    connection = getattr(answer.raw, "connection", None)
    if isinstance(found := getattr(connection, "sock", None), socket.socket):
        with suppress(OSError):
            found.shutdown(socket.SHUT_RDWR)
