"""Send a notice through Apprise (the extra `notify`): Telegram, mail and 170 more services."""

from __future__ import annotations

import importlib
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from anvyl_mcp.core import extras, text
from anvyl_mcp.core.errors import AnvylError, ConfigInvalid, InvalidInput
from anvyl_mcp.peers.notices.channel_url import ChannelUrl
from anvyl_mcp.peers.notices.notice import Notice
from anvyl_mcp.peers.notices.services import MOST_REASON, DeliveryFailed

SECONDS = 30.0
STATUS = re.compile(r"\berror=(\d{3})\b|\((\d{3})\)")
ONE_AT_A_TIME = threading.Lock()
RETRIED = re.compile(r"5\d\d|429|408")
MAIL_DETAIL = "Socket Exception: "
"""Begins what Apprise logs only for debugging: why a mail server was not reached or did not take the mail."""
MAIL_REFUSED = re.compile(r"\(5\d\d, b['\"]|refused: 5\d\d")
"""An answer of a mail server that stays the same at the next attempt, like a wrong password."""


def check_url(url: ChannelUrl) -> None:
    """Check that Apprise knows a service and finds its parts in the URL.

    Raises:
        ConfigInvalid: Apprise is not installed.
        InvalidInput: the URL is not one of its services, or misses a part.
    """
    _service(url)


async def send(url: ChannelUrl, notice: Notice) -> None:
    """Send a notice.

    Raises:
        DeliveryFailed: it did not arrive.
    """
    try:
        service = _service(url)
    except AnvylError as error:
        raise DeliveryFailed(error.message, retry=False) from error
    said = _Warnings(mail=url.shown.startswith("mailto"))

    def notify() -> bool:
        # One at a time: Apprise logs in threads of its own, so what it says could be about another channel.
        with ONE_AT_A_TIME, said.collected():
            return bool(service.notify(title=notice.title, body=notice.body))

    try:
        with anyio.fail_after(SECONDS):
            arrived = await anyio.to_thread.run_sync(notify, abandon_on_cancel=True)
    except TimeoutError:
        raise DeliveryFailed(f"no answer within {SECONDS:g} s", retry=True) from None
    if not arrived:
        raise said.failure(url)


class _Warnings(logging.Handler):
    """Collects what Apprise logs: it returns only whether a notice arrived."""

    def __init__(self, *, mail: bool) -> None:
        super().__init__(logging.DEBUG if mail else logging.WARNING)
        self.messages: list[str] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Collect in this context."""
        log = logging.getLogger("apprise")
        level = log.level
        log.setLevel(self.level)
        log.addHandler(self)
        try:
            yield
        finally:
            log.removeHandler(self)
            log.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith(MAIL_DETAIL):
            self.messages.insert(0, message.removeprefix(MAIL_DETAIL))
        elif record.levelno >= logging.WARNING:
            self.messages.append(message)

    def failure(self, url: ChannelUrl) -> DeliveryFailed:
        """Return the failure with the HTTP status and the reason, if they were logged."""
        said = url.hide_secrets(text.one_line("; ".join(self.messages))).strip().rstrip(".")
        found = STATUS.search(said)
        status = (found[1] or found[2]) if found else ""
        reason = f"HTTP {status}: {said}" if status else said or "the service did not accept it"
        refused = MAIL_REFUSED.search(said)
        return DeliveryFailed(reason[:MOST_REASON], retry=not refused and bool(not status or RETRIED.fullmatch(status)))


def _service(url: ChannelUrl) -> Any:
    try:
        apprise = importlib.import_module("apprise")
    except ImportError as error:
        scheme = url.shown.partition(":")[0]
        raise ConfigInvalid(
            f"`{scheme}://` needs Apprise, which is not installed", hint=extras.install_command("notify")
        ) from error
    # Its log may contain URLs; what we need of it is collected in `send`.
    logging.getLogger("apprise").propagate = False
    service = apprise.Apprise()
    with warnings.catch_warnings():
        # Its first use imports modules of the standard library that are deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        known = service.add(url.address)
    if not known:
        scheme = url.shown.partition(":")[0]
        raise InvalidInput(
            f"`{scheme}://` is not a service of Apprise, or the URL misses a part",
            hint="the services and their URLs: https://appriseit.com/services",
        )
    return service
