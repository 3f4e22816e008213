"""Merge the progress of one call on several hosts into one increasing progress."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio

from anvyl_mcp.peers.connection.listing import ProgressCallback
from anvyl_mcp.peers.fleet.fleet import Outcome

SendNotification = Callable[[float, float | None, str | None], Awaitable[None]]


class ProgressFanIn:
    """Merges progress reports: one host's own numbers, or for several the number of hosts done and the last message."""

    def __init__(self, send: SendNotification, hosts: Sequence[str]) -> None:
        self._send = send
        self._parts = dict.fromkeys(hosts, 0.0)
        self._latest: tuple[float, float | None, str] | None = None
        self._sent = float("-inf")
        self._news = anyio.Event()

    def callback_for(self, host: str) -> ProgressCallback:
        """Return the progress callback for one host."""

        def report(done: float, total: float | None, message: str) -> None:
            if len(self._parts) == 1:
                self._record(done, total, message)
            else:
                part = min(done / total, 1.0) if total else 0.0
                self._record_part(host, part, message)

        return report

    def record_done(self, outcome: Outcome) -> None:
        """Record that one host is done."""
        if len(self._parts) > 1:
            self._record_part(outcome.host, 1.0, outcome.status)

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` and send the progress reported meanwhile."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._send_updates)
            await work()
            group.cancel_scope.cancel()
        await self._send_latest()

    def _record_part(self, host: str, part: float, message: str) -> None:
        self._parts[host] = max(self._parts[host], part)
        self._record(sum(self._parts.values()), float(len(self._parts)), f"{host}: {message}")

    def _record(self, done: float, total: float | None, message: str) -> None:
        self._latest = (done, total, message)
        self._news.set()

    async def _send_updates(self) -> None:
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            await self._send_latest()

    async def _send_latest(self) -> None:
        latest = self._latest
        # The protocol requires the progress to increase with every notification.
        if latest is None or latest[0] <= self._sent:
            return
        self._sent = latest[0]
        await self._send(latest[0], latest[1], latest[2] or None)
