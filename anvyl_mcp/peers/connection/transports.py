"""Parse a host's address and create a connection for it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from anvyl_mcp.core.errors import InvalidInput, Unpaired
from anvyl_mcp.peers.connection.lean_client import LeanClient
from anvyl_mcp.peers.connection.listing import Connection
from anvyl_mcp.peers.connection.tls_pinning import NextPin

DEFAULT_PORT = 4200
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?", re.ASCII)
_TOKEN = re.compile(r"[!-~]+", re.ASCII)
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*", re.ASCII)
_PAIR = "pair with it: run `anvyl-mcp invite` there, then `anvyl hosts add` here"
_LIKE = "write it like http://192.168.1.5:4200"


def _connect_plain(url: str, lean: bool, pin: str, token: str, next_key: NextPin | None) -> Connection:
    if pin:
        raise InvalidInput(f"{url} cannot prove its key: it is plain http", hint="write it with https://")
    if token and not is_loopback(url):
        raise Unpaired("a token is sent to another machine over https only", hint=_PAIR)
    return _make_client(url, lean, pin, token, next_key)


def _connect_pinned(url: str, lean: bool, pin: str, token: str, next_key: NextPin | None) -> Connection:
    if not pin:
        raise Unpaired("its key is not pinned, so nothing is sent to it", hint=_PAIR)
    return _make_client(url, lean, pin, token, next_key)


def _make_client(url: str, lean: bool, pin: str, token: str, next_key: NextPin | None) -> Connection:
    if lean:
        return LeanClient(url, pin=pin, token=token, next_key=next_key)
    # The SDK costs a second to import; a direct command never needs it.
    from anvyl_mcp.peers.connection.sdk_client import SdkClient

    return SdkClient(url, pin=pin, token=token, next_key=next_key)


TRANSPORTS: dict[str, Callable[[str, bool, str, str, NextPin | None], Connection]] = {
    "http": _connect_plain,
    "https": _connect_pinned,
}
"""Connection factories by URL scheme; arguments: URL, lean, pin, token, next key."""


def connect(url: str, *, lean: bool, pin: str = "", token: str = "", next_key: NextPin | None = None) -> Connection:
    """Return a connection to the host at `url`; nothing is sent until it is used. `lean`: avoid slow imports.

    Other machines need https with the `pin` of their key; `token` authenticates this machine. The host may already use
    `next_key` instead of the pinned one.

    Raises:
        InvalidInput: the address, the pin or the token is invalid.
        Unpaired: a pin is missing, or the token would be sent unencrypted.
    """
    base = base_url(url)
    if token and not _TOKEN.fullmatch(token):
        raise InvalidInput("the token contains invalid characters", hint="copy it again, in one piece")
    return TRANSPORTS[urlsplit(base).scheme](f"{base}/mcp", lean, pin, token, next_key)


def base_url(text: str) -> str:
    """Normalize a host's address: `nas` becomes `http://nas:4200`.

    Raises:
        InvalidInput: it is not an address, or contains more than one.
    """
    written = text.strip()
    parts, port = _split(_with_scheme(written) if "://" not in written else written, written)
    if parts.scheme not in TRANSPORTS:
        raise InvalidInput(
            f"`{written}` has the unknown transport `{parts.scheme}`", hint=f"use {' or '.join(TRANSPORTS)}"
        )
    if "@" in parts.netloc:
        raise InvalidInput("an address must not hold a user name or password", hint=_LIKE)
    if parts.query or parts.fragment or "?" in written or "#" in written:
        raise InvalidInput(f"`{written}` has more than an address in it", hint=_LIKE)
    path = parts.path.rstrip("/").removesuffix("/mcp").rstrip("/")
    host = _host(parts.hostname or "")
    if not host or not _PATH.fullmatch(path):
        raise InvalidInput(f"`{written}` is not an address", hint=_LIKE)
    return f"{parts.scheme}://{host}:{port}{path}"


def is_loopback(url: str) -> bool:
    """Whether the address can only be this machine; False if it cannot be parsed."""
    try:
        host = urlsplit(base_url(url)).hostname or ""
    except InvalidInput:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _with_scheme(written: str) -> str:
    """Add the scheme to an address, and brackets to a bare IPv6 address."""
    try:
        return f"http://[{ipaddress.IPv6Address(written)}]"
    except ValueError:
        return f"http://{written}"


def _split(url: str, written: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"`{written}` is not an address: {str(error).lower()}", hint=_LIKE) from error
    if port == 0 or (port is None and parts.netloc.endswith(":")):
        raise InvalidInput(f"`{written}` has no usable port", hint=_LIKE)
    return parts, DEFAULT_PORT if port is None else port


def _host(name: str) -> str:
    """Return the host as it is spelled in a URL; empty if invalid."""
    if ":" in name:
        try:
            return f"[{ipaddress.IPv6Address(name)}]"
        except ValueError:
            return ""
    return name if _HOST.fullmatch(name) else ""
