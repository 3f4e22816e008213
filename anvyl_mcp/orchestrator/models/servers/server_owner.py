"""Find the owner of a loopback listener: another user may have taken the model server's port."""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

LISTENING = "0A"
FIRST_LOGIN_USER = 1000
SERVICE_USERS = range(61184, 65520)
"""Uids that systemd assigns to services with DynamicUser."""
TABLES = ("tcp", "tcp6")
UID_MIN = re.compile(r"^\s*UID_MIN\s+(\d+)", re.MULTILINE)


def foreign_owner(url: str, allowed: str = "") -> str:
    """Name of a login user other than us and `allowed` that listens at a loopback URL; empty if none does.

    Root and service users are trusted: they run the containers and model servers of the machine.

    Raises:
        httpx.InvalidURL: the URL is malformed. Parsed with httpx, because the client does the same.
    """
    if sys.platform != "linux":
        return ""
    parsed = httpx.URL(url)
    targets, port = set(_loopback_targets(parsed.host)), parsed.port or 80
    for address, listening, uid in _listeners() if targets else ():
        if listening == port and targets & {address, *_reached_by(address)} and _is_another_login_user(uid):
            name = _name_of(uid)
            if name != allowed:
                return name
    return ""


def _loopback_targets(host: str) -> Iterator[str]:
    if host == "localhost":
        yield from ("127.0.0.1", "::1")
        return
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return
    if parsed.is_loopback:
        yield str(parsed)


def _reached_by(address: str) -> tuple[str, ...]:
    """Further loopback addresses at which a listener on `address` is reached."""
    match address:
        case "0.0.0.0":
            return ("127.0.0.1",)
        case "::":
            return ("127.0.0.1", "::1")
    return ()


def _listeners() -> Iterator[tuple[str, int, int]]:
    """Address, port and owner (uid) of each listening socket."""
    for table in TABLES:
        try:
            lines = Path(f"/proc/self/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except (OSError, UnicodeDecodeError):
            continue
        for line in lines:
            _, local, _, state, _, _, _, uid, *_ = line.split()
            if state == LISTENING:
                address, _, port = local.partition(":")
                yield _address(address), int(port, 16), int(uid)


def _address(text: str) -> str:
    """Parse an address of the table: 32-bit words in the machine's byte order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    parsed = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def _is_another_login_user(uid: int) -> bool:
    return uid != os.geteuid() and uid >= _first_login_user() and uid not in SERVICE_USERS


def _first_login_user() -> int:
    try:
        found = UID_MIN.search(Path("/etc/login.defs").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    return int(found[1]) if found else FIRST_LOGIN_USER


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
