"""Send the watcher's alerts to a webhook or a command. Failed deliveries are retried after the next check."""

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
"""Time limit for delivering one alert."""
MOST_WAITING = 100

Notifier = Callable[[Alert], Awaitable[bool]]
"""Delivers one alert and returns whether it arrived."""


def make_watcher(fleet: Fleet, settings: Settings, selector: str = "", *, patience: int = 2) -> Watcher:
    """Return a watcher configured from the settings.

    Raises:
        InvalidInput: a setting is invalid.
        UnknownHost: the selector names an unknown host or tag.
    """
    percent = settings.watch_disk.removesuffix("%").strip()
    if not percent.isdecimal() or not 1 <= int(percent) <= 100:
        raise InvalidInput(f"a disk cannot be `{percent}` percent full", hint="use 1 to 100, like 90")
    return Watcher(fleet, selector or "all", disk_percent=int(percent), patience=patience)


def make_watch(
    fleet: Fleet, settings: Settings, on_alert: Callable[[Alert], None], selector: str = ""
) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return a function that watches until cancelled, and delivers alerts to `on_alert` and as the settings say.

    Raises:
        InvalidInput: a setting is invalid.
        UnknownHost: the selector names an unknown host or tag.
    """
    every = parse_duration(settings.watch_every)
    if not every:
        raise InvalidInput(f"`{settings.watch_every}` is not a valid interval", hint="write it like 30s or 5m")
    notifiers = [webhook(settings.watch_webhook)] if settings.watch_webhook else []
    notifiers += [command(settings.watch_command)] if settings.watch_command else []
    return partial(watch, make_watcher(fleet, settings, selector), every, on_alert, notifiers)


async def watch(
    watcher: Watcher, every: float, on_alert: Callable[[Alert], None], notifiers: Iterable[Notifier]
) -> None:
    """Check every `every` seconds until cancelled. `on_alert` is called at once; `notifiers` until an alert arrived."""
    queues = [(notifier, deque[Alert](maxlen=MOST_WAITING)) for notifier in notifiers]
    while True:
        try:
            found = await watcher.check()
        except AnvylError as error:
            # A hosts file that is invalid while it is edited must not end a watch that runs for months.
            log.warning("the hosts could not be checked: %s", error)
            found = []
        for alert in found:
            on_alert(alert)
            for _, queue in queues:
                queue.append(alert)
        async with anyio.create_task_group() as group:
            for notifier, queue in queues:
                group.start_soon(_deliver, notifier, queue)
        await anyio.sleep(every)


async def _deliver(notifier: Notifier, queue: deque[Alert]) -> None:
    while queue:
        if not await notifier(queue[0]):
            return
        queue.popleft()


def webhook(url: str) -> Notifier:
    """Return a notifier that posts each alert as JSON.

    Raises:
        InvalidInput: the URL is invalid.
    """
    import httpx

    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidInput("the webhook is not a web address", hint="write it like https://…") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise InvalidInput("the webhook is not a web address", hint="write it like https://…")

    async def post(alert: Alert) -> bool:
        try:
            async with httpx.AsyncClient(timeout=SECONDS) as client:
                answer = await client.post(address, json=alert.as_dict())
        except httpx.HTTPError as error:
            # Log only the host: the URL may contain a secret.
            log.warning("the webhook at %s cannot be reached: %s", address.host, type(error).__name__)
            return False
        if answer.is_server_error or answer.status_code == 429:
            log.warning("the webhook at %s answers HTTP %d; Anvyl will retry", address.host, answer.status_code)
            return False
        if not answer.is_success:
            log.warning("the webhook at %s rejected an alert: HTTP %d", address.host, answer.status_code)
        return True

    return post


def command(line: str) -> Notifier:
    """Return a notifier that runs a program for each alert, with the alert as JSON on its standard input.

    Raises:
        InvalidInput: the command line cannot be parsed.
    """
    try:
        argv = shlex.split(line)
    except ValueError as error:
        raise InvalidInput(f"the command cannot be parsed: {str(error).lower()}", hint="check its quotes") from error
    if not argv:
        raise InvalidInput("the command is empty", hint="like --command 'notify-send Anvyl'")

    async def run(alert: Alert) -> bool:
        document = alert.as_dict()
        names = ("event", "host", "kind", "message")
        environment = {f"ANVYL_{name.upper()}": clean(str(document[name])) for name in names}
        try:
            with anyio.fail_after(SECONDS):
                done = await anyio.run_process(
                    argv,
                    input=json.dumps(document).encode(),
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
