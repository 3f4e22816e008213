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
from anvyl_mcp.server.auth.callers import implied, in_order
from anvyl_mcp.server.auth.secret_file import SecretFile
from anvyl_mcp.server.auth.tokens import Token, Tokens, check_token_name

SECRET_BYTES = 16
REMEMBER_SECONDS = 24 * 3600
"""Long enough to say of a code that it was used or is too old, rather than wrong."""
AGAIN = "on that host run `anvyl-mcp invite` again, then here `anvyl hosts add`"


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by a clock that nobody sets: seconds since this machine started, and which start that was."""

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
    """What the token is called that it became."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A machine that redeemed an invitation: what it calls itself, what its token is called, from where it came."""

    called: str
    name: str
    address: str
    scopes: tuple[str, ...]
    relay: bool

    def __str__(self) -> str:
        """A line for the person who invited it."""
        rights = ",".join(self.scopes) + (" and the right to ask on" if self.relay else "")
        return f"{self.called} joined from {self.address or 'this machine'} as `{self.name}` with {rights}"


class Invites:
    """The invitations in a folder, shared by the server and `anvyl-mcp invite`."""

    def __init__(
        self, folder: Path, tokens: Tokens | None = None, *, clock: Callable[[], Moment] | None = None
    ) -> None:
        self._file: SecretFile[dict[str, _Invite]] = SecretFile(
            folder / "invites.json", parse=_parse, dump=_dump, start={}
        )
        self._tokens = tokens or Tokens(folder)
        self._clock = clock or moment

    def create(self, scopes: Iterable[str], seconds: float, *, relay: bool = False) -> bytes:
        """A new secret of 128 bits, good for one host and `seconds`.

        Raises:
            InvalidInput: there are no rights to give, or no time to use them.
            ConfigInvalid: the file cannot be used or written.
        """
        given = implied(scopes)
        if not given or seconds <= 0:
            raise InvalidInput("an invitation needs rights and time", hint="--scope read,operate --expires 15m")
        secret = secrets.token_bytes(SECRET_BYTES)
        now = self._clock()
        with self._file.changing() as invites:
            for digest in [digest for digest, invite in invites.items() if _forgotten(invite, now)]:
                del invites[digest]
            invites[_digest(secret)] = _Invite(
                in_order(given), now.boot, now.seconds, now.seconds + seconds, relay=relay
            )
        return secret

    def redeem(self, secret: bytes | str, name: str, *, address: str = "", instead_of: str = "") -> tuple[Token, str]:
        """The token for a host called `name`, and its text. Works once, whatever happens after.

        `secret` as bytes, or as they travel in JSON: URL-safe base64 without padding. `instead_of`: the id of a token
        that the same host holds already; the new one takes its place and its name.

        Raises:
            Denied: the secret is wrong, used or too old.
            InvalidInput: the name cannot be used; the secret still can.
            ConfigInvalid: a file cannot be used or written.
        """
        check_token_name(name)
        digest = _digest(secret if isinstance(secret, bytes) else _decoded(secret))
        with self._file.changing() as invites:
            invite = self._good(invites.get(digest))
            # Spent on disk before the token exists: a crash in between costs a new invitation, not a second token.
            invites[digest] = replace(invite, used_by=name, address=address)
        token, text = self._tokens.create(name, invite.scopes, rename=True, relay=invite.relay, instead_of=instead_of)
        with self._file.changing() as invites:
            invites[digest] = replace(invites[digest], name=token.name)
        return token, text

    def require(self, secret: str) -> None:
        """Return if a code is good now.

        Raises:
            Denied: it is wrong, used or too old.
            ConfigInvalid: the file cannot be used.
        """
        self._good(self._file.read().get(_digest(_decoded(secret))))

    def _good(self, invite: _Invite | None) -> _Invite:
        if invite is None:
            raise Denied("the code is not from this host, or was replaced", hint=AGAIN)
        if invite.used_by:
            raise Denied(f"the code was used already, by `{invite.used_by}`", hint=AGAIN)
        if _expired(invite, self._clock()):
            raise Denied("the code is too old", hint=AGAIN)
        return invite

    def joined(self, secret: str) -> Joined | None:
        """Return who redeemed an invitation; None while it is unused.

        Raises:
            ConfigInvalid: the file cannot be used.
        """
        invite = self._file.read().get(_digest(_decoded(secret)))
        if invite is None or not invite.name:
            return None
        return Joined(invite.used_by, invite.name, invite.address, tuple(invite.scopes), invite.relay)


def moment() -> Moment:
    """Now by the boot clock, which counts sleep and does not follow the wall clock; elsewhere by the wall clock."""
    if sys.platform == "linux":
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            return Moment(boot, time.clock_gettime(time.CLOCK_BOOTTIME))
        except OSError:
            pass
    return Moment("", time.time())


def _expired(invite: _Invite, now: Moment) -> bool:
    return invite.boot != now.boot or not invite.made <= now.seconds < invite.expires


def _forgotten(invite: _Invite, now: Moment) -> bool:
    return invite.boot != now.boot or now.seconds - invite.expires > REMEMBER_SECONDS


def _decoded(secret: str) -> bytes:
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
    # Invitations of older versions have none of the last three.
    relay, address, name = entry.get("relay") is True, str(entry.get("address", "")), str(entry.get("name", ""))
    return _Invite(in_order(scopes), str(entry["boot"]), made, expires, str(entry["used_by"]), relay, address, name)


def _dump(invites: dict[str, _Invite]) -> object:
    return {"version": 1, "invites": {digest: asdict(invite) for digest, invite in invites.items()}}
