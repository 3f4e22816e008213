"""Send a notice to a service over HTTP: ntfy, Gotify, Discord, Slack, or a program that receives JSON."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx

from anvyl_mcp.core import text
from anvyl_mcp.peers.notices.channel_url import ChannelUrl
from anvyl_mcp.peers.notices.notice import Notice

SECONDS = 10.0
MOST_REASON = 120
DISCORD_LIMIT, SLACK_LIMIT, NTFY_LIMIT = 2000, 3000, 4000
"""Most characters of a message, with room for what the service adds."""
REASON_FIELDS = ("error", "message", "errorDescription", "description")
"""Where services put the reason of a refusal in their JSON."""


class DeliveryFailed(Exception):
    """A notice did not arrive. `retry`: it may arrive later. The message has no secret."""

    def __init__(self, reason: str, *, retry: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry = retry


@dataclass(frozen=True, slots=True)
class _Request:
    url: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


async def post(url: ChannelUrl, notice: Notice) -> None:
    """Send a notice to a service that needs no Apprise.

    Raises:
        DeliveryFailed: it did not arrive.
    """
    request = REQUESTS[url.kind](url, notice)
    # Both log the URL of each request, which contains secrets.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        async with httpx.AsyncClient(timeout=SECONDS) as client:
            answer = await client.post(request.url, json=request.body, headers=dict(request.headers))
    except httpx.InvalidURL as error:
        raise DeliveryFailed("the URL is invalid", retry=False) from error
    except httpx.TimeoutException:
        raise DeliveryFailed(f"no answer within {SECONDS:g} s", retry=True) from None
    except httpx.HTTPError as error:
        # Only the type: the message may contain the URL.
        raise DeliveryFailed(f"no connection ({type(error).__name__})", retry=True) from None
    if answer.is_success:
        return
    reason = url.hide_secrets(_reason(answer))
    retry = answer.is_server_error or answer.status_code in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT)
    raise DeliveryFailed(f"HTTP {answer.status_code}{f': {reason}' if reason else ''}", retry=retry)


def _ntfy(url: ChannelUrl, notice: Notice) -> _Request:
    priority = 5 if notice.urgent else 4 if notice.level == "problem" else 3
    body = {"topic": url.topic, "title": notice.title, "message": notice.body[:NTFY_LIMIT], "priority": priority}
    if url.user:
        login = b64encode(f"{url.user}:{url.token}".encode()).decode("ascii")
        return _Request(url.address, body, {"Authorization": f"Basic {login}"})
    return _Request(url.address, body, {"Authorization": f"Bearer {url.token}"} if url.token else {})


def _gotify(url: ChannelUrl, notice: Notice) -> _Request:
    priority = 8 if notice.urgent else 5 if notice.level == "problem" else 3
    body = {"title": notice.title, "message": notice.body, "priority": priority}
    return _Request(f"{url.address}/message", body, {"X-Gotify-Key": url.token})


def _discord(url: ChannelUrl, notice: Notice) -> _Request:
    # Names of containers must neither ping people nor become formatting.
    plain = "".join(f"\\{one}" if one in "*_~`|>\\" else one for one in notice.body)
    content = f"**{notice.title}**\n{plain}"
    return _Request(url.address, {"content": content[:DISCORD_LIMIT], "allowed_mentions": {"parse": []}})


def _slack(url: ChannelUrl, notice: Notice) -> _Request:
    words = f"*{notice.title}*\n{notice.body}"[:SLACK_LIMIT]
    for one, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        words = words.replace(one, entity)
    return _Request(url.address, {"text": words})


def _json(url: ChannelUrl, notice: Notice) -> _Request:
    return _Request(url.address, notice.as_dict())


REQUESTS: Mapping[str, Callable[[ChannelUrl, Notice], _Request]] = {
    "ntfy": _ntfy,
    "gotify": _gotify,
    "discord": _discord,
    "slack": _slack,
    "json": _json,
}


def _reason(answer: httpx.Response) -> str:
    """Return the reason that the service gives, on one line."""
    reason: Any = answer.text
    try:
        document = answer.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        document = None
    if isinstance(document, dict):
        reason = next((document[name] for name in REASON_FIELDS if document.get(name)), "")
    words = text.one_line(str(reason)).strip()
    if not words or words.startswith("<"):
        return answer.reason_phrase.lower()
    return words[:MOST_REASON]
