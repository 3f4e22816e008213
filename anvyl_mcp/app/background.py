"""Background tasks of the server: the recorder of history, and if enabled the fleet watcher and the announcement."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.peers.fleet.fleet import Fleet

if TYPE_CHECKING:
    from anvyl_mcp.server.history.recorder import Recorder

log = logging.getLogger(__name__)

BackgroundTask = Callable[[], Coroutine[None, None, None]]


class BackgroundTasks:
    """The background tasks of one server."""

    def __init__(self, fleet: Fleet, settings: Settings, others: Sequence[BackgroundTask] = ()) -> None:
        """Check the settings, and that the required packages are installed; `run` starts the tasks, `others` too.

        Raises:
            ConfigInvalid: a package is missing, or a rule or the channels of the watch cannot be used.
            InvalidInput: a setting of the watch is invalid.
        """
        self._fleet = fleet
        self._settings = settings
        self._others = others
        self._urls: list[str] = []
        self._changed = anyio.Event()
        self.checks: dict[str, Callable[[], str]] = {}
        """Further checks for `/health`."""
        if settings.announce:
            from anvyl_mcp.peers.hosts import discovery

            discovery.check_installed()
        self._watch = self._make_watch() if settings.watch or settings.watch_standby else None

    def set_network_urls(self, urls: Sequence[str]) -> None:
        """Announce these URLs from now on."""
        self._urls = list(urls)
        self._changed.set()

    @asynccontextmanager
    async def run(self, recorder: Recorder) -> AsyncIterator[None]:
        """Run the tasks in this context. Notices of the watcher are also logged."""
        failure: AnvylError | None = None
        async with recorder.run(), anyio.create_task_group() as group:
            if self._watch is not None:
                group.start_soon(self._watch)
            if self._settings.announce:
                group.start_soon(self._announce)
            for other in self._others:
                group.start_soon(other)
            try:
                yield
            except AnvylError as error:
                # The task group would wrap it in an exception group, which the command line shows as a traceback.
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def _make_watch(self) -> Callable[[], Coroutine[Any, Any, None]]:
        """Return the watch, or the standby for that of another host."""
        from anvyl_mcp.core.text import parse_duration
        from anvyl_mcp.peers.watch.notifiers import NoticePost, make_watch
        from anvyl_mcp.peers.watch.standby import Standby
        from anvyl_mcp.peers.watch.watch_file import WatchFile

        fleet, settings = self._fleet, self._settings
        post, file = NoticePost(settings, fleet.local.name), WatchFile(settings.state_dir)
        stands_by = settings.watch_standby and settings.watch_standby != fleet.local.name
        watch = make_watch(
            fleet,
            settings,
            lambda alert: log.warning("%s", alert.message),
            post=post,
            file=None if stands_by else file,
        )
        if stands_by:
            return Standby(fleet, settings.watch_standby, parse_duration(settings.watch_every) or 30, post, watch).run
        self.checks["watch"] = lambda: "ok" if file.read().is_alive(time.time()) else "no check is finished yet"
        return watch

    async def _announce(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            if not self._urls:
                log.warning("not announced: the server listens on loopback; open it with --host or anvyl-mcp invite")
                continue
            try:
                await self._announce_until_changed()
            except (AnvylError, OSError) as error:
                log.warning("not announced: %s", error)

    async def _announce_until_changed(self) -> None:
        from anvyl_mcp.peers.hosts import discovery
        from anvyl_mcp.server.addresses import join_addresses

        first = urlsplit(self._urls[0])
        addresses = join_addresses(first.hostname or "")
        async with discovery.announce(self._fleet.local.name, addresses, first.port or 0):
            await self._changed.wait()
