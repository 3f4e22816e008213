"""Stand by for the host that watches the fleet: when it no longer does, say so and watch instead."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import anyio

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.hosts.pairing import fetch_checks
from anvyl_mcp.peers.notices.notice import Level, Notice
from anvyl_mcp.peers.watch.notifiers import NoticePost

log = logging.getLogger(__name__)

PATIENCE = 2
"""Failed checks in a row after which a host counts as not watching."""
CHECK_SECONDS = 15.0


async def watch_problem(fleet: Fleet, host: str) -> str:
    """Return why a host does not watch the fleet; empty if it does."""
    peer = fleet.peers.get(host)
    if peer is None:
        return "it is not one of the hosts known here"
    if peer == fleet.local:
        return "it is this host itself"
    try:
        with anyio.fail_after(CHECK_SECONDS):
            checks = await fetch_checks(peer)
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    except AnvylError as error:
        return error.message
    state = checks.get("watch", "it serves without --watch, or may not be asked")
    return "" if state == "ok" else str(state)


@dataclass(frozen=True, slots=True)
class Standby:
    """Watches while `host` does not. `watch` runs until cancelled."""

    fleet: Fleet
    host: str
    every: float
    post: NoticePost
    watch: Callable[[], Coroutine[Any, Any, None]]

    async def run(self) -> None:
        """Check the other host until cancelled."""
        missed = 0
        while True:
            problem = await watch_problem(self.fleet, self.host)
            missed = missed + 1 if problem else 0
            if missed >= PATIENCE:
                await self._take_over(problem)
                missed = 0
            await anyio.sleep(self.every)

    async def _take_over(self, problem: str) -> None:
        began, here = time.time(), self.fleet.local.name
        await self._say("problem", f"{self.host} does not watch the hosts ({problem}); {here} does until it is back.")
        async with anyio.create_task_group() as group:
            group.start_soon(self.watch)
            while True:
                await anyio.sleep(self.every)
                if not await watch_problem(self.fleet, self.host):
                    break
            group.cancel_scope.cancel()
        after = text.format_duration(max(time.time() - began, 1))
        await self._say("recovered", f"{self.host} watches the hosts again, after {after}; {here} stands by.")

    async def _say(self, level: Level, message: str) -> None:
        log.warning("%s", text.one_line(message))
        title = f"{'Problem' if level == 'problem' else 'Recovered'}: watch on {self.host}"
        document = {"event": "trouble" if level == "problem" else "recovered", "host": self.host, "kind": "watch"}
        body = text.one_line(message)
        now = time.time()
        more = {"subject": "", "message": body, "at": text.format_timestamp(now), "text": f"{title}: {body}"}
        key = (self.host, "watch", "", "")
        await self.post.tell(info=Notice(title, body, level, now, key, urgent=True, document={**document, **more}))
