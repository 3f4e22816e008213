"""Who is behind a connection on loopback, and whether that one needs a token."""

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
"""For looking through the machine's processes."""
SCANS_AT_ONCE = 2
LOCAL_PREFIX = "anv_local_"


@dataclass(frozen=True, slots=True)
class LoopbackCaller:
    """Who calls, as far as it is known, and why that one is not trusted: empty when it is."""

    uid: int | None
    name: str = ""
    refusal: str = ""

    @property
    def trusted(self) -> bool:
        """Whether no token is needed."""
        return not self.refusal


@dataclass(slots=True)
class ClientConnection:
    """What is known of the caller on one open connection; it ends with it, so a port used again tells nothing."""

    caller: LoopbackCaller | None = None
    accepted: socket.socket | None = None
    admit: Callable[[], None] = lambda: None

    def is_open(self) -> bool:
        """Whether our end is still connected. While it is, no other connection can have its addresses and ports."""
        if self.accepted is None:
            return False
        try:
            return self.accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in socket_owner.OPEN_STATES
        except OSError:
            return False


class LoopbackTrust:
    """Trusts the server's own user, root, and members that `member` knows, each only from where this server lives."""

    def __init__(self, *, member: Callable[[int], bool] = lambda _: False) -> None:
        self._member = member
        self._recent_pids: dict[int, str] = {}
        self._limiter: list[anyio.CapacityLimiter] = []

    async def check(self, peer: Address, own: Address, connection: ClientConnection) -> LoopbackCaller:
        """Who holds the client's end of the connection from `peer` to `own`, and whether that one is trusted.

        The kernel is asked, and processes are looked through on a thread. `connection` is of this connection alone: the
        caller of an open connection stays the same, so once is enough. One that was not identified is looked for again.
        """
        if connection.caller is not None:
            return connection.caller
        found = socket_owner.find(peer, own)
        # Asked afterwards: had our end been closed before, what was found could belong to a later connection.
        if found is None or not connection.is_open():
            return UNIDENTIFIED
        if not self._limiter:
            self._limiter.append(anyio.CapacityLimiter(SCANS_AT_ONCE))
        caller = await anyio.to_thread.run_sync(self._identify, found, limiter=self._limiter[0])
        if caller != UNIDENTIFIED:
            connection.caller = caller
        return caller

    def _identify(self, found: PeerSocket) -> LoopbackCaller:
        name = user_name(found.uid)
        if found.uid not in (os.geteuid(), 0) and not self._member(found.uid):
            return LoopbackCaller(found.uid, name, f"the user `{name}` may not use this host without a token")
        local = made_by_local_process(found, seconds=LONGEST_SECONDS, recent=self._recent_pids)
        if local is None:
            return UNIDENTIFIED
        refusal = "" if local else "a caller in a container, or hard to tell from one, needs a token"
        return LoopbackCaller(found.uid, name, refusal)


UNIDENTIFIED = LoopbackCaller(None, refusal="the calling process cannot be identified, so it needs a token")


def user_name(uid: int) -> str:
    """The name of a user, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def engine_socket_members(engine_socket: Path) -> Callable[[int], bool]:
    """Whether a user is in the group that may use the engine's socket anyway; asked anew for every connection."""

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
    """A token that lies in a file which only this user reads: for callers on loopback whom nothing else identifies."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._digest = b""

    def make(self) -> None:
        """Write a new one; the one before it stops working.

        Raises:
            ConfigInvalid: it cannot be written.
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
        """Whether it is this one."""
        return hmac.compare_digest(_digest(text), self._digest) and bool(self._digest)

    def remove(self) -> None:
        """Take it away: the server ends."""
        self._digest = b""
        with suppress(OSError):
            self.file.unlink()

    @staticmethod
    def read(file: Path) -> str:
        """What a command on this machine sends; empty when there is none, or it is somebody else's."""
        try:
            return file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
