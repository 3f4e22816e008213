"""Stand by for the host that watches the fleet: when it no longer does, say so and watch instead."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Denied, Unpaired
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.hosts.pairing import fetch_checks
from anvyl_mcp.peers.notices.notice import Level, Notice
from anvyl_mcp.peers.watch.notifiers import NoticePost

log = logging.getLogger(__name__)

PATIENCE = 2
"""Failed checks in a row after which a host counts as not watching."""
CHECK_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class WatchState:
    """Whether a host watches the fleet, and why not or why that is unknown."""

    word: Literal["watches", "does not", "unknown"]
    reason: str = ""


async def watch_state(fleet: Fleet, host: str) -> WatchState:
    """Ask a host whether it watches the fleet. A host that refuses to say is not one that is down."""
    peer = fleet.peers.get(host)
    if peer is None:
        return WatchState("unknown", "it is not one of the hosts known here")
    try:
        with anyio.fail_after(CHECK_SECONDS):
            checks = await fetch_checks(peer)
    except TimeoutError:
        return WatchState("does not", f"no answer within {CHECK_SECONDS:g} s")
    except (Denied, Unpaired) as error:
        return WatchState("unknown", error.message)
    except AnvylError as error:
        return WatchState("does not", error.message)
    if not checks:
        return WatchState("unknown", "our token there lacks the scope read")
    found = str(checks.get("watch", "it serves without --watch"))
    return WatchState("watches") if found == "ok" else WatchState("does not", found)


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
        last, times, blind = "", 0, False
        while True:
            found = await watch_state(self.fleet, self.host)
            times = times + 1 if found.word == last else 1
            last = found.word
            if blind and found.word != "unknown":
                blind = False
                await self._say(
                    "recovered", "standby", f"{self.fleet.local.name} can check the watch of {self.host} again."
                )
            if times == PATIENCE and found.word == "unknown" and not blind:
                blind = True
                here, reason = self.fleet.local.name, found.reason
                await self._say(
                    "problem", "standby", f"{here} cannot check whether {self.host} watches the hosts ({reason})."
                )
            if times >= PATIENCE and found.word == "does not":
                await self._take_over(found.reason)
                times = 0
            await anyio.sleep(self.every)

    async def _take_over(self, reason: str) -> None:
        began, here = time.time(), self.fleet.local.name
        await self._say(
            "problem", "watch", f"{self.host} does not watch the hosts ({reason}); {here} does until it is back."
        )
        async with anyio.create_task_group() as group:
            group.start_soon(self.watch)
            while True:
                await anyio.sleep(self.every)
                if (await watch_state(self.fleet, self.host)).word == "watches":
                    break
            group.cancel_scope.cancel()
        after = text.format_duration(max(time.time() - began, 1))
        await self._say("recovered", "watch", f"{self.host} watches the hosts again, after {after}; {here} stands by.")

    async def _say(self, level: Level, kind: Literal["watch", "standby"], message: str) -> None:
        log.warning("%s", text.one_line(message))
        what = {"watch": f"watch on {self.host}", "standby": f"standby for {self.host}"}[kind]
        title = f"{'Problem' if level == 'problem' else 'Recovered'}: {what}"
        document = {"event": "trouble" if level == "problem" else "recovered", "host": self.host, "kind": kind}
        body = text.one_line(message)
        now = time.time()
        more = {"subject": "", "message": body, "at": text.format_timestamp(now), "text": f"{title}: {body}"}
        key = (self.host, kind, "", "")
        await self.post.tell(info=Notice(title, body, level, now, key, urgent=True, document={**document, **more}))
