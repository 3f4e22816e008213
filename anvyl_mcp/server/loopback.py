"""Who is behind a connection on loopback, and whether that one needs a token."""

from __future__ import annotations

import hashlib
import hmac
import os
import pwd
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from anvyl_mcp.errors import ConfigInvalid
from anvyl_mcp.server import secret_file
from anvyl_mcp.server.peer_socket import Address, PeerSocket, PeerSockets, held_in_our_namespace

LONGEST_SECONDS = 0.5
"""For looking through the machine's processes."""
SCANS_AT_ONCE = 2
LOCAL_PREFIX = "anv_local_"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who calls, as far as it is known, and why that one is not trusted: empty when it is."""

    uid: int | None
    name: str = ""
    refusal: str = ""

    @property
    def trusted(self) -> bool:
        """Whether no token is needed."""
        return not self.refusal


@dataclass(slots=True)
class Seen:
    """What is known of the caller on one open connection; it ends with it, so a port used again tells nothing."""

    verdict: Verdict | None = None


class Loopback:
    """Trusts the server's own user, root, and whoever `member` names, each only from our own process namespace."""

    def __init__(self, *, member: Callable[[int], bool] = lambda _: False) -> None:
        self._member = member
        self._sockets = PeerSockets()
        self._lately: dict[int, str] = {}
        self._limiter: list[anyio.CapacityLimiter] = []

    async def check(self, peer: Address, own: Address, seen: Seen | None = None) -> Verdict:
        """As `trusted_without_token`; the kernel is asked, and processes are looked through on a thread.

        `seen` is of this connection alone: who is at the other end of an open connection stays there, so once is
        enough. What could not be told is asked again.
        """
        if seen is not None and seen.verdict is not None:
            return seen.verdict
        found = self._sockets.find(peer, own)
        if found is None:
            return UNKNOWN
        if not self._limiter:
            self._limiter.append(anyio.CapacityLimiter(SCANS_AT_ONCE))
        verdict = await anyio.to_thread.run_sync(self._judge, found, limiter=self._limiter[0])
        if seen is not None and verdict != UNKNOWN:
            seen.verdict = verdict
        return verdict

    def trusted_without_token(self, peer: Address, own: Address) -> Verdict:
        """Who holds the client's end of the connection from `peer` to `own`, and whether that one is trusted."""
        found = self._sockets.find(peer, own)
        return UNKNOWN if found is None else self._judge(found)

    def _judge(self, found: PeerSocket) -> Verdict:
        name = user_name(found.uid)
        if found.uid not in (os.geteuid(), 0) and not self._member(found.uid):
            return Verdict(found.uid, name, f"the user `{name}` may not use this host without a token")
        held = held_in_our_namespace(found, seconds=LONGEST_SECONDS, lately=self._lately)
        if held is None:
            return UNKNOWN
        refusal = "" if held else "a caller in a container, or hard to tell from one, needs a token"
        return Verdict(found.uid, name, refusal)


UNKNOWN = Verdict(None, refusal="the process that calls cannot be identified, so it needs a token")


def user_name(uid: int) -> str:
    """The name of a user, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def may_use(engine_socket: Path) -> Callable[[int], bool]:
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
            secret_file.replace(self.file, text + "\n")
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
