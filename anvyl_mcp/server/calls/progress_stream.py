"""Sends progress notifications of a running call to its client."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.server.progress import Progress

MIN_INTERVAL = 0.2
"""Seconds between two notifications: a pull reports progress hundreds of times a second."""

SendNotification = Callable[[float, float | None, str | None], Awaitable[None]]
WorkResult = TypeVar("WorkResult")


class ProgressStream(Progress):
    """Progress notifications of one call, throttled to one per `MIN_INTERVAL`; the first and the last are always sent.

    Create it on the event loop; it may be called there or on a worker thread.
    """

    def __init__(self, send: SendNotification) -> None:
        self._send = send
        self._loop = anyio.lowlevel.current_token()
        self._thread = threading.get_ident()
        self._latest: tuple[float, float | None, str] | None = None
        self._last_sent = float("-inf")
        self._changed = anyio.Event()
        self._wake_pending = False
        self._cancelled = False

    def __call__(self, done: float, total: float | None = None, message: str = "") -> None:
        """Store the current progress; it is sent when the interval allows."""
        self._latest = (done, total, message)
        if self._wake_pending or self._cancelled:
            return
        self._wake_pending = True
        if threading.get_ident() == self._thread:
            self._changed.set()
        else:
            # An abandoned thread may outlive the loop.
            with suppress(anyio.RunFinishedError):
                anyio.from_thread.run_sync(self._wake, token=self._loop)

    @property
    def cancelled(self) -> bool:
        """Whether the caller cancelled the call."""
        return self._cancelled

    def cancel(self) -> None:
        """Signal the work that the caller no longer waits."""
        self._cancelled = True

    async def run_and_send(self, work: Callable[[], Awaitable[WorkResult]]) -> WorkResult:
        """Run `work` and send the progress that it reports meanwhile."""
        failure: AnvylError | None = None
        results: list[WorkResult] = []
        async with anyio.create_task_group() as group:
            group.start_soon(self._pump)
            try:
                results.append(await work())
            except AnvylError as error:
                # The task group would wrap it in an exception group.
                failure = error
            group.cancel_scope.cancel()
        await self._send_latest()
        if failure is not None:
            raise failure
        return results[0]

    def _wake(self) -> None:
        self._changed.set()

    async def _pump(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            self._wake_pending = False
            await self._send_latest()
            await anyio.sleep(MIN_INTERVAL)

    async def _send_latest(self) -> None:
        latest = self._latest
        # MCP requires progress to increase with every notification.
        if latest is None or latest[0] <= self._last_sent:
            return
        done, total, message = latest
        await self._send(done, total, message or None)
        self._last_sent = done
