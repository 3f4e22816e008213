"""Progress of a running call, sent to the client that waits for it."""

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
"""Seconds between two notifications: an engine that pulls writes hundreds a second."""

SendProgress = Callable[[float, float | None, str | None], Awaitable[None]]
Response = TypeVar("Response")


class ProgressStream(Progress):
    """Progress notifications of one call, throttled to one per `MIN_INTERVAL`; the first and the last are always sent.

    Create it on the event loop; it may be called there or on a worker thread.
    """

    def __init__(self, send: SendProgress) -> None:
        self._send = send
        self._loop = anyio.lowlevel.current_token()
        self._thread = threading.get_ident()
        self._latest: tuple[float, float | None, str] | None = None
        self._sent = float("-inf")
        self._news = anyio.Event()
        self._woken = False
        self._cancelled = False

    def __call__(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the work is."""
        self._latest = (done, total, message)
        if self._woken or self._cancelled:
            return
        self._woken = True
        if threading.get_ident() == self._thread:
            self._news.set()
        else:
            # A thread that was given up may outlive the loop.
            with suppress(anyio.RunFinishedError):
                anyio.from_thread.run_sync(self._wake, token=self._loop)

    @property
    def cancelled(self) -> bool:
        """Whether the caller gave up."""
        return self._cancelled

    def cancel(self) -> None:
        """Tell the work that nobody waits for it any more."""
        self._cancelled = True

    async def run_and_send(self, work: Callable[[], Awaitable[Response]]) -> Response:
        """Do the work, and send what it reports meanwhile."""
        failure: AnvylError | None = None
        ended: list[Response] = []
        async with anyio.create_task_group() as group:
            group.start_soon(self._pump)
            try:
                ended.append(await work())
            except AnvylError as error:
                # Left to itself the task group would wrap it.
                failure = error
            group.cancel_scope.cancel()
        await self._tell()
        if failure is not None:
            raise failure
        return ended[0]

    def _wake(self) -> None:
        self._news.set()

    async def _pump(self) -> None:
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            self._woken = False
            await self._tell()
            await anyio.sleep(MIN_INTERVAL)

    async def _tell(self) -> None:
        latest = self._latest
        # The protocol wants every notification to be further than the one before.
        if latest is None or latest[0] <= self._sent:
            return
        done, total, message = latest
        await self._send(done, total, message or None)
        self._sent = done
