"""Invitations: one-time secrets that become a token."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from anvyl_mcp.core.errors import Denied, InvalidInput
from anvyl_mcp.server.auth.callers import implied_scopes, sort_scopes
from anvyl_mcp.server.auth.secret_file import SecretFile
from anvyl_mcp.server.auth.tokens import Token, Tokens, check_token_name

SECRET_BYTES = 16
REMEMBER_SECONDS = 24 * 3600
"""How long to keep used and expired invitations, to report that instead of an unknown code."""
INVITE_AGAIN = "on that host run `anvyl-mcp invite` again, then here `anvyl hosts add`"


@dataclass(frozen=True, slots=True)
class BootTime:
    """A time on the boot clock, which cannot be set: the boot's id and the seconds since."""

    boot: str
    seconds: float


@dataclass(frozen=True, slots=True)
class _Invite:
    scopes: list[str]
    boot: str
    made: float
    expires: float
    used_by: str = ""
    relay: bool = False
    address: str = ""
    name: str = ""
    """Name of the token it was exchanged for."""


@dataclass(frozen=True, slots=True)
class RedeemedInvite:
    """A redeemed invitation: the joining host, the name of its token, the address it came from, and its scopes."""

    host: str
    token_name: str
    address: str
    scopes: tuple[str, ...]
    relay: bool

    def __str__(self) -> str:
        """A line for the user who invited it."""
        scopes = ",".join(self.scopes) + (" and relay" if self.relay else "")
        return f"{self.host} joined from {self.address or 'this machine'} as `{self.token_name}` with {scopes}"


class InviteStore:
    """The invitations in a folder, shared by the server and `anvyl-mcp invite`."""

    def __init__(
        self, folder: Path, tokens: Tokens | None = None, *, clock: Callable[[], BootTime] | None = None
    ) -> None:
        self._file: SecretFile[dict[str, _Invite]] = SecretFile(
            folder / "invites.json", parse=_parse, dump=_dump, start={}
        )
        self._tokens = tokens or Tokens(folder)
        self._clock = clock or boot_time

    def create(self, scopes: Iterable[str], seconds: float, *, relay: bool = False) -> bytes:
        """Create an invitation for one host, valid for `seconds`; return its 128-bit secret.

        Raises:
            InvalidInput: the scopes are empty, or the time is not positive.
            ConfigInvalid: the file cannot be used or written.
        """
        granted = implied_scopes(scopes)
        if not granted or seconds <= 0:
            raise InvalidInput("an invitation needs scopes and a lifetime", hint="--scope read,operate --expires 15m")
        secret = secrets.token_bytes(SECRET_BYTES)
        now = self._clock()
        with self._file.edit() as invites:
            for digest in [digest for digest, invite in invites.items() if _is_stale(invite, now)]:
                del invites[digest]
            invites[_digest(secret)] = _Invite(
                sort_scopes(granted), now.boot, now.seconds, now.seconds + seconds, relay=relay
            )
        return secret

    def redeem(self, secret: bytes | str, name: str, *, address: str = "", replaces: str = "") -> tuple[Token, str]:
        """Exchange an invitation for a token of the host `name`, once; return the token and its text.

        `secret`: bytes, or their URL-safe base64 without padding as sent in JSON. `replaces`: the id of the token that
        the host already holds; the new one replaces it and keeps its name.

        Raises:
            Denied: the secret is wrong, used or expired.
            InvalidInput: the name is invalid; the secret stays valid.
            ConfigInvalid: a file cannot be used or written.
        """
        check_token_name(name)
        digest = _digest(secret if isinstance(secret, bytes) else _decode(secret))
        with self._file.edit() as invites:
            invite = self._require_valid(invites.get(digest))
            # Marked used on disk before the token exists: a crash in between must not allow a second token.
            invites[digest] = replace(invite, used_by=name, address=address)
        token, text = self._tokens.create(name, invite.scopes, rename=True, relay=invite.relay, replaces=replaces)
        with self._file.edit() as invites:
            invites[digest] = replace(invites[digest], name=token.name)
        return token, text

    def require(self, secret: str) -> None:
        """Return if a code is valid now.

        Raises:
            Denied: it is wrong, used or expired.
            ConfigInvalid: the file cannot be used.
        """
        self._require_valid(self._file.read().get(_digest(_decode(secret))))

    def _require_valid(self, invite: _Invite | None) -> _Invite:
        if invite is None:
            raise Denied("this code is not from this host, or was replaced", hint=INVITE_AGAIN)
        if invite.used_by:
            raise Denied(f"this code has already been used by `{invite.used_by}`", hint=INVITE_AGAIN)
        if _expired(invite, self._clock()):
            raise Denied("this code has expired", hint=INVITE_AGAIN)
        return invite

    def find_redeemed(self, secret: str) -> RedeemedInvite | None:
        """Return how an invitation was redeemed, or None while it is unused.

        Raises:
            ConfigInvalid: the file cannot be used.
        """
        invite = self._file.read().get(_digest(_decode(secret)))
        if invite is None or not invite.name:
            return None
        return RedeemedInvite(invite.used_by, invite.name, invite.address, tuple(invite.scopes), invite.relay)


def boot_time() -> BootTime:
    """Return the time on the boot clock, which includes sleep and ignores changes of the wall clock, if available."""
    if sys.platform == "linux":
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            return BootTime(boot, time.clock_gettime(time.CLOCK_BOOTTIME))
        except OSError:
            pass
    return BootTime("", time.time())


def _expired(invite: _Invite, now: BootTime) -> bool:
    return invite.boot != now.boot or not invite.made <= now.seconds < invite.expires


def _is_stale(invite: _Invite, now: BootTime) -> bool:
    return invite.boot != now.boot or now.seconds - invite.expires > REMEMBER_SECONDS


def _decode(secret: str) -> bytes:
    try:
        return base64.b64decode(secret + "=" * (-len(secret) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _parse(data: Any) -> dict[str, _Invite]:
    if data["version"] != 1:
        raise ValueError(data["version"])
    return {digest: _parse_one(digest, entry) for digest, entry in data["invites"].items()}


def _parse_one(digest: str, entry: Any) -> _Invite:
    scopes = entry["scopes"]
    if not re.fullmatch("[0-9a-f]{64}", digest) or not isinstance(scopes, list):
        raise ValueError(digest)
    made, expires = float(entry["made"]), float(entry["expires"])
    # Invitations of older versions lack the last three.
    relay, address, name = entry.get("relay") is True, str(entry.get("address", "")), str(entry.get("name", ""))
    return _Invite(sort_scopes(scopes), str(entry["boot"]), made, expires, str(entry["used_by"]), relay, address, name)


def _dump(invites: dict[str, _Invite]) -> object:
    return {"version": 1, "invites": {digest: asdict(invite) for digest, invite in invites.items()}}
