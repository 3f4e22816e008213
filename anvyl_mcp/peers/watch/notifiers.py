"""Where notices go besides the terminal: a webhook, a command. What does not arrive is sent again at the next look."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from subprocess import DEVNULL
from typing import Any

import anyio

from anvyl_mcp.core.errors import AnvylError, InvalidInput
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.core.text import clean, parse_duration
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.watch.watcher import Alert, Watcher

log = logging.getLogger(__name__)

SECONDS = 10.0
"""What a webhook or a command may take for one notice."""
MOST_WAITING = 100

Notifier = Callable[[Alert], Awaitable[bool]]
"""Delivers one notice; whether it arrived."""


def make_watcher(fleet: Fleet, settings: Settings, selector: str = "", *, patience: int = 2) -> Watcher:
    """What looks at the fleet again and again, as the settings say.

    Raises:
        InvalidInput: a setting cannot be used.
        UnknownHost: the selector names nobody.
    """
    percent = settings.watch_disk.removesuffix("%").strip()
    if not percent.isdecimal() or not 1 <= int(percent) <= 100:
        raise InvalidInput(f"a disk cannot be `{percent}` percent full", hint="use 1 to 100, like 90")
    return Watcher(fleet, selector or "all", disk_percent=int(percent), patience=patience)


def make_watch(
    fleet: Fleet, settings: Settings, tell: Callable[[Alert], None], selector: str = ""
) -> Callable[[], Coroutine[Any, Any, None]]:
    """What looks until it is cancelled, tells, and delivers notices where the settings say.

    Raises:
        InvalidInput: a setting cannot be used.
        UnknownHost: the selector names nobody.
    """
    every = parse_duration(settings.watch_every)
    if not every:
        raise InvalidInput(f"`{settings.watch_every}` is no time between looks", hint="write it like 30s or 5m")
    ways = [webhook(settings.watch_webhook)] if settings.watch_webhook else []
    ways += [command(settings.watch_command)] if settings.watch_command else []
    return partial(watch, make_watcher(fleet, settings, selector), every, tell, ways)


async def watch(watcher: Watcher, every: float, tell: Callable[[Alert], None], ways: Iterable[Notifier]) -> None:
    """Look every so many seconds, until cancelled; `tell` is told at once, `ways` until each notice arrived."""
    waiting = [(way, deque[Alert](maxlen=MOST_WAITING)) for way in ways]
    while True:
        try:
            found = await watcher.look()
        except AnvylError as error:
            # A hosts file that is being edited must not end a watch that runs for months.
            log.warning("nothing could be looked at: %s", error)
            found = []
        for notice in found:
            tell(notice)
            for _, queue in waiting:
                queue.append(notice)
        async with anyio.create_task_group() as group:
            for way, queue in waiting:
                group.start_soon(_deliver, way, queue)
        await anyio.sleep(every)


async def _deliver(way: Notifier, queue: deque[Alert]) -> None:
    while queue:
        if not await way(queue[0]):
            return
        queue.popleft()


def webhook(url: str) -> Notifier:
    """Posts each notice as JSON.

    Raises:
        InvalidInput: it is no web address.
    """
    import httpx

    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidInput("the webhook is not a web address", hint="write it like https://…") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise InvalidInput("the webhook is not a web address", hint="write it like https://…")

    async def post(notice: Alert) -> bool:
        try:
            async with httpx.AsyncClient(timeout=SECONDS) as client:
                answer = await client.post(address, json=notice.as_dict())
        except httpx.HTTPError as error:
            # The address may hold a secret; its host does not.
            log.warning("the webhook at %s cannot be reached: %s", address.host, type(error).__name__)
            return False
        if answer.is_server_error or answer.status_code == 429:
            log.warning("the webhook at %s answers HTTP %d; it is tried again", address.host, answer.status_code)
            return False
        if not answer.is_success:
            log.warning("the webhook at %s refuses a notice: HTTP %d", address.host, answer.status_code)
        return True

    return post


def command(line: str) -> Notifier:
    """Runs a program for each notice, with the notice as JSON on its standard input.

    Raises:
        InvalidInput: it cannot be split into a program and its arguments.
    """
    try:
        argv = shlex.split(line)
    except ValueError as error:
        raise InvalidInput(f"the command cannot be read: {str(error).lower()}", hint="see its quotes") from error
    if not argv:
        raise InvalidInput("the command is empty", hint="like --command 'notify-send Anvyl'")

    async def run(notice: Alert) -> bool:
        told = notice.as_dict()
        environment = {f"ANVYL_{name.upper()}": clean(str(told[name])) for name in ("event", "host", "kind", "message")}
        try:
            with anyio.fail_after(SECONDS):
                done = await anyio.run_process(
                    argv,
                    input=json.dumps(told).encode(),
                    stdout=DEVNULL,
                    stderr=DEVNULL,
                    check=False,
                    env={**os.environ, **environment},
                )
        except OSError as error:
            log.warning("`%s` cannot be run: %s", argv[0], error.strerror)
            return True
        except TimeoutError:
            log.warning("`%s` was stopped after %g s", argv[0], SECONDS)
            return True
        if done.returncode:
            log.warning("`%s` ended with code %d", argv[0], done.returncode)
        return True

    return run
