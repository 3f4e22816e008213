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
from datetime import datetime
from pathlib import Path
from typing import Any

from anvyl_mcp.core.errors import Denied, InvalidInput
from anvyl_mcp.server.auth.callers import implied_scopes, sort_scopes
from anvyl_mcp.server.auth.secret_file import SecretFile
from anvyl_mcp.server.auth.tokens import SIGN_IN_AGAIN, BrowserSession, Token, Tokens, check_token_name

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
    browser: bool = False
    """It opens the page in a browser; it is not for hosts."""
    private: bool = False
    """Other users of this machine may have seen it, so it is for its own user only."""


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

    def create(
        self,
        scopes: Iterable[str],
        seconds: float,
        *,
        relay: bool = False,
        browser: bool = False,
        private: bool = False,
    ) -> bytes:
        """Create an invitation for one host or `browser`, valid for `seconds`; return its 128-bit secret.

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
                sort_scopes(granted),
                now.boot,
                now.seconds,
                now.seconds + seconds,
                relay=relay,
                browser=browser,
                private=private,
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
        digest, invite = self._use(secret, name, address, browser=False)
        token, text = self._tokens.create(name, invite.scopes, rename=True, relay=invite.relay, replaces=replaces)
        with self._file.edit() as invites:
            invites[digest] = replace(invites[digest], name=token.name)
        return token, text

    def redeem_link(self, secret: str, name: str, expires: datetime, *, address: str, owner: str) -> tuple[Token, str]:
        """Exchange the secret of a link for a browser's session, once; return the session and its text.

        Raises:
            Denied: the secret is wrong, used or expired.
            ConfigInvalid: a file cannot be used or written.
        """
        digest, invite = self._use(secret, name, address, browser=True)
        token, text = self._tokens.create(
            name, invite.scopes, expires, rename=True, relay=invite.relay, browser=BrowserSession(owner)
        )
        with self._file.edit() as invites:
            invites[digest] = replace(invites[digest], name=token.name)
        return token, text

    def _use(self, secret: bytes | str, name: str, address: str, *, browser: bool) -> tuple[str, _Invite]:
        check_token_name(name)
        digest = _digest(secret if isinstance(secret, bytes) else _decode(secret))
        with self._file.edit() as invites:
            invite = self._require_valid(invites.get(digest), browser=browser)
            # Marked used on disk before the token exists: a crash in between must not allow a second token.
            invites[digest] = replace(invite, used_by=name, address=address)
        return digest, invite

    def require(self, secret: str, *, browser: bool = False, own_user: bool = True) -> None:
        """Return if a code, or the secret of a link for a `browser`, is valid now.

        `own_user`: whether the caller may be the user that a private link is for.

        Raises:
            Denied: it is wrong, used or expired.
            ConfigInvalid: the file cannot be used.
        """
        invite = self._require_valid(self._file.read().get(_digest(_decode(secret))), browser=browser)
        if invite.private and not own_user:
            raise Denied("this link is for a browser of the user who runs `anvyl web`", hint="use `anvyl web --print`")

    def _require_valid(self, invite: _Invite | None, *, browser: bool = False) -> _Invite:
        what, again = ("link", SIGN_IN_AGAIN) if browser else ("code", INVITE_AGAIN)
        if invite is None or invite.browser != browser:
            raise Denied(f"this {what} is not from this host, or was replaced", hint=again)
        if invite.used_by:
            raise Denied(f"this {what} has already been used by `{invite.used_by}`", hint=again)
        if _expired(invite, self._clock()):
            raise Denied(f"this {what} has expired", hint=again)
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
    # Invitations of older versions lack these.
    relay, browser, private = (entry.get(key) is True for key in ("relay", "browser", "private"))
    address, name = str(entry.get("address", "")), str(entry.get("name", ""))
    boot, used_by = str(entry["boot"]), str(entry["used_by"])
    return _Invite(sort_scopes(scopes), boot, made, expires, used_by, relay, address, name, browser, private)


def _dump(invites: dict[str, _Invite]) -> object:
    return {"version": 1, "invites": {digest: asdict(invite) for digest, invite in invites.items()}}
