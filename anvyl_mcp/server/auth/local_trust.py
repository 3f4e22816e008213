"""Identification of loopback callers, and which of them need no token."""

from __future__ import annotations

import hashlib
import hmac
import os
import pwd
import secrets
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from anvyl_mcp.core.errors import ConfigInvalid
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.server.auth import socket_owner
from anvyl_mcp.server.auth.caller_process import made_by_local_process
from anvyl_mcp.server.auth.socket_owner import Address, PeerSocket

LONGEST_SECONDS = 2.0
"""For scanning the machine's processes."""
SCANS_AT_ONCE = 2
LOCAL_PREFIX = "anv_local_"
LOOPBACK_KEY = "anvyl.loopback"
"""Key in an ASGI scope under which `Authentication` stores the `LoopbackCaller` of a request that signs in."""


@dataclass(frozen=True, slots=True)
class LoopbackCaller:
    """The user behind a loopback connection, if identified. `refusal` is why it is not trusted; empty if it is."""

    uid: int | None
    name: str = ""
    refusal: str = ""

    @property
    def trusted(self) -> bool:
        """Whether the caller needs no token."""
        return not self.refusal


@dataclass(slots=True)
class ClientConnection:
    """An open connection and its identified caller. Kept per connection, because ports are reused."""

    caller: LoopbackCaller | None = None
    accepted: socket.socket | None = None
    admit: Callable[[], None] = lambda: None

    def is_open(self) -> bool:
        """Whether our end is still connected; until then no other connection can have the same addresses and ports."""
        if self.accepted is None:
            return False
        try:
            return self.accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in socket_owner.OPEN_STATES
        except OSError:
            return False


class LoopbackTrust:
    """Trusts the server's own user, root, and users for whom `member` is true, unless they run in a container."""

    def __init__(self, *, member: Callable[[int], bool] = lambda _: False) -> None:
        self._member = member
        self._recent_pids: dict[int, str] = {}
        self._limiter: list[anyio.CapacityLimiter] = []

    async def check(self, peer: Address, own: Address, connection: ClientConnection) -> LoopbackCaller:
        """Identify the caller on the connection from `peer` to `own`, and decide whether it is trusted.

        Queries the kernel, and scans processes on a thread. The result is cached in `connection`, except for a caller
        that could not be identified.
        """
        if connection.caller is not None:
            return connection.caller
        found = socket_owner.find(peer, own)
        # Checked afterwards: if our end had been closed, the socket found could belong to a later connection.
        if found is None or not connection.is_open():
            return UNIDENTIFIED
        if not self._limiter:
            self._limiter.append(anyio.CapacityLimiter(SCANS_AT_ONCE))
        caller = await anyio.to_thread.run_sync(self._identify, found, limiter=self._limiter[0])
        if caller != UNIDENTIFIED:
            connection.caller = caller
        return caller

    async def user_id(self, peer: Address, own: Address, connection: ClientConnection) -> int | None:
        """Return the user whose process made the connection, trusted or not; None if the kernel does not say."""
        if connection.caller is not None:
            return connection.caller.uid
        found = socket_owner.find(peer, own)
        return found.uid if found is not None and connection.is_open() else None

    def _identify(self, found: PeerSocket) -> LoopbackCaller:
        name = user_name(found.uid)
        if found.uid not in (os.geteuid(), 0) and not self._member(found.uid):
            return LoopbackCaller(found.uid, name, f"the user `{name}` may not use this host without a token")
        local = made_by_local_process(found, seconds=LONGEST_SECONDS, recent=self._recent_pids)
        if local is None:
            return UNIDENTIFIED
        refusal = "" if local else "a caller that runs or may run in a container needs a token"
        return LoopbackCaller(found.uid, name, refusal)


UNIDENTIFIED = LoopbackCaller(None, refusal="the calling process cannot be identified, so it needs a token")


def user_name(uid: int) -> str:
    """Return a user's name, or `uid N` if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def engine_socket_members(engine_socket: Path) -> Callable[[int], bool]:
    """Return a predicate: is a user in the group that may use the engine's socket? Not cached."""

    def member(uid: int) -> bool:
        try:
            found = engine_socket.stat()
            user = pwd.getpwuid(uid)
        except (OSError, KeyError):
            return False
        usable = stat.S_ISSOCK(found.st_mode) and found.st_mode & stat.S_IWGRP
        return bool(usable) and found.st_gid in os.getgrouplist(user.pw_name, user.pw_gid)

    return member


class LocalToken:
    """A token in a file that only this user can read, for loopback callers that cannot be identified otherwise."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._digest = b""

    def make(self) -> None:
        """Write a new token; the previous one stops working.

        Raises:
            ConfigInvalid: the file cannot be written.
        """
        text = LOCAL_PREFIX + secrets.token_urlsafe(32)
        try:
            write_atomically(self.file, text + "\n")
        except OSError as error:
            raise ConfigInvalid(
                f"{self.file} cannot be written: {error.strerror}", hint="check the disk and its permissions"
            ) from error
        self._digest = _digest(text)

    def matches(self, text: str) -> bool:
        """Whether `text` is this token."""
        return hmac.compare_digest(_digest(text), self._digest) and bool(self._digest)

    def remove(self) -> None:
        """Delete the token when the server stops."""
        self._digest = b""
        with suppress(OSError):
            self.file.unlink()

    @staticmethod
    def read(file: Path) -> str:
        """Return the token for a command on this machine; empty if the file is missing or not readable."""
        try:
            return file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
