"""Addresses of notices: which service a URL means, and how it is shown without its secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from anvyl_mcp.core.errors import InvalidInput

ServiceKind = Literal["ntfy", "gotify", "discord", "slack", "json", "apprise"]
CLOUD = "ntfy.sh"
SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}")
EXAMPLES = "like ntfys://ntfy.sh/my-topic, discord://ID/TOKEN, gotifys://HOST/TOKEN or mailto://…"
DISCORD_PATH = re.compile(r"/api/(v\d+/)?webhooks/\d+/[\w-]+/?", re.ASCII)
SLACK_PATH = re.compile(r"/services/T\w+/B\w+/\w+/?", re.ASCII)
LEAST_SECRET = 4
"""Shorter parts of a URL are not replaced in error messages: they are words like `up`."""


@dataclass(frozen=True, slots=True)
class ChannelUrl:
    """A parsed URL. `address`: where the request goes, or the whole URL for Apprise; it contains secrets."""

    kind: ServiceKind
    address: str
    shown: str
    topic: str = ""
    token: str = ""
    user: str = ""
    secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"ChannelUrl({self.shown})"

    def hide_secrets(self, message: str) -> str:
        """Replace every part of the URL that may be a secret."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            message = message.replace(secret, "***")
        return message


def parse_channel_url(url: str) -> ChannelUrl:
    """Parse a URL as Apprise writes them, or as a service shows it.

    Raises:
        InvalidInput: it is not a URL, or misses a part.
    """
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname or ""
        # Apprise has other things than a port after a colon.
        _ = parts.port if parts.scheme in SCHEMES else None
    except ValueError as error:
        raise InvalidInput("this is not a URL", hint=EXAMPLES) from error
    if not SCHEME.fullmatch(parts.scheme) or "://" not in url or not (host or parts.path.strip("/")):
        raise InvalidInput("this is not a URL", hint=EXAMPLES)
    found = SCHEMES.get(parts.scheme, _apprise)(parts)
    # Apprise gets what was written: `urlsplit` drops an empty query, for instance.
    return replace(found, address=url.strip()) if found.kind == "apprise" else found


def _secrets(parts: SplitResult) -> tuple[str, ...]:
    found = {parts.password or "", parts.username or "", *parts.path.split("/")}
    found |= {value for _, value in parse_qsl(parts.query)} | {parts.query, parts.path.strip("/")}
    found |= {unquote(one) for one in found}
    return tuple(one for one in found if len(one) >= LEAST_SECRET)


def _base(parts: SplitResult, secure: bool) -> str:
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{'https' if secure else 'http'}://{host}{f':{parts.port}' if parts.port else ''}"


def _place(parts: SplitResult) -> str:
    return f"{parts.hostname}{f':{parts.port}' if parts.port else ''}"


def _shorten(word: str) -> str:
    """Show enough of a topic to recognize it; anyone who knows it can read it."""
    return f"{word[:3]}…{word[-2:]}" if len(word) > 7 else f"{word[:1]}…"


def _ntfy(parts: SplitResult) -> ChannelUrl:
    topic = parts.path.strip("/")
    secure = parts.scheme in ("ntfys", "https") or parts.hostname == CLOUD or not topic
    # Apprise: without a path, the host is a topic at ntfy.sh. Names of topics have capital letters.
    base = _base(parts, secure) if topic else f"https://{CLOUD}"
    name = topic or parts.netloc.rpartition("@")[2].partition(":")[0]
    if not re.fullmatch(r"[\w-]{1,64}", name, re.ASCII):
        raise InvalidInput("the URL has no topic, or several", hint="write it like ntfys://ntfy.sh/my-topic")
    token = unquote(parts.username or "") if not parts.password else unquote(parts.password)
    user = unquote(parts.username or "") if parts.password else ""
    login = "…@" if token else ""
    place = _place(parts) if topic else CLOUD
    shown = f"ntfy{'s' if secure else ''}://{login}{place}/{name if login else _shorten(name)}"
    return ChannelUrl("ntfy", base, shown, name, token, user, (*_secrets(parts), name))


def _gotify(parts: SplitResult) -> ChannelUrl:
    *path, token = parts.path.strip("/").split("/")
    if not token or not parts.hostname:
        raise InvalidInput("the URL has no token", hint="write it like gotifys://HOST/TOKEN")
    base = "/".join([_base(parts, parts.scheme == "gotifys"), *path])
    return ChannelUrl("gotify", base, f"{parts.scheme}://{_place(parts)}/…", token=token, secrets=_secrets(parts))


def _discord(parts: SplitResult) -> ChannelUrl:
    # The number of a webhook is a host name in `discord://ID/TOKEN`.
    number, token = parts.netloc.rpartition("@")[2], parts.path.strip("/")
    if not number.isdecimal() or not re.fullmatch(r"[\w-]+", token, re.ASCII):
        raise InvalidInput("the URL has no number and token of a webhook", hint="write it like discord://ID/TOKEN")
    address = f"https://discord.com/api/webhooks/{number}/{token}"
    return ChannelUrl("discord", address, "discord://…", secrets=(*_secrets(parts), number, token))


def _slack(parts: SplitResult) -> ChannelUrl:
    words = [parts.netloc.rpartition("@")[2], *parts.path.strip("/").split("/")]
    if len(words) < 3 or not all(words[:3]):
        # A bot token of Slack: Apprise knows that API.
        return _apprise(parts)
    address = f"https://hooks.slack.com/services/{'/'.join(words[:3])}"
    return ChannelUrl("slack", address, "slack://…", secrets=(*_secrets(parts), words[0]))


def _web_address(parts: SplitResult) -> ChannelUrl:
    """A URL that a service shows to copy, recognized by its path, or else a program that receives JSON."""
    if parts.hostname == CLOUD and re.fullmatch(r"/[\w-]{1,64}/?", parts.path, re.ASCII):
        return _ntfy(parts)
    found = _json(parts)
    if DISCORD_PATH.fullmatch(parts.path):
        return replace(found, kind="discord", shown="discord://…")
    return replace(found, kind="slack", shown="slack://…") if SLACK_PATH.fullmatch(parts.path) else found


def _json(parts: SplitResult) -> ChannelUrl:
    if not parts.hostname:
        raise InvalidInput("the URL has no host", hint="write it like https://HOST/PATH")
    secure = parts.scheme in ("https", "jsons")
    login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    host = parts.netloc.rpartition("@")[2]
    query = f"?{parts.query}" if parts.query else ""
    address = f"{'https' if secure else 'http'}://{login}{host}{parts.path}{query}"
    hidden = "/…" if parts.path.strip("/") or query else ""
    shown = f"{parts.scheme}://{'…@' if login else ''}{_place(parts)}{hidden}"
    return ChannelUrl("json", address, shown, secrets=_secrets(parts))


def _apprise(parts: SplitResult) -> ChannelUrl:
    mail = parts.hostname if parts.scheme in ("mailto", "mailtos") and parts.hostname else ""
    return ChannelUrl(
        "apprise", parts.geturl(), f"{parts.scheme}://…{f'@{mail}' if mail else ''}", secrets=_secrets(parts)
    )


SCHEMES: Mapping[str, Callable[[SplitResult], ChannelUrl]] = {
    "ntfy": _ntfy,
    "ntfys": _ntfy,
    "gotify": _gotify,
    "gotifys": _gotify,
    "discord": _discord,
    "slack": _slack,
    "json": _json,
    "jsons": _json,
    "http": _web_address,
    "https": _web_address,
}
"""Services without Apprise, by scheme."""
