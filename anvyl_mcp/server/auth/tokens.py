"""Tokens of this host: opaque, hashed at rest, revocable."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from anvyl_mcp.core.errors import Conflict, Denied, InvalidInput, NotFound, did_you_mean
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.server.auth.callers import RESERVED_NAMES, implied_scopes, sort_scopes
from anvyl_mcp.server.auth.secret_file import SecretFile

PREFIX = "anv_"
"""A fixed prefix, so that secret scanners can find leaked tokens."""
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?", re.ASCII)
RECORD_USE_EVERY = timedelta(minutes=1)
REMEMBER_REVOKED = timedelta(days=90)
"""How long to keep revoked tokens, to report them as revoked instead of unknown."""
SIGN_IN_AGAIN = "run `anvyl web` on that machine, or open a new link of `anvyl-mcp invite --browser`"


@dataclass(frozen=True, slots=True)
class Token:
    """A token's metadata, without its secret."""

    id: str
    name: str
    scopes: frozenset[str]
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    last_used: datetime | None = None
    last_address: str = ""
    relay: bool = False
    browser: bool = False
    """It is the session of a browser: valid only as cookie and key together, never as a bearer token."""
    owner: str = ""
    """The user of this machine whose browser signed in on loopback, as `uid:1000`; empty if unknown or elsewhere."""
    parent: str = ""
    """The id of the token that was typed to sign in; the session ends with it."""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "id": self.id,
            "name": self.name,
            "scopes": sort_scopes(self.scopes),
            "relay": self.relay,
            "browser": self.browser,
            "created": _timestamp(self.created),
            "expires": _timestamp(self.expires),
            "last_used": _timestamp(self.last_used),
            "last_address": self.last_address,
        }


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """What a browser's session has beyond a token; see `Token`."""

    owner: str = ""
    parent: str = ""


@dataclass(frozen=True, slots=True)
class _StoredToken:
    token: Token
    digest: str


class Tokens:
    """The token store in a folder, shared by server and commands."""

    def __init__(self, folder: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._file: SecretFile[dict[str, _StoredToken]] = SecretFile(
            folder / "tokens.json", parse=_parse, dump=_dump, start={}
        )
        self._uses = _Uses(folder / "tokens-used.json")
        self._clock = clock

    @property
    def path(self) -> Path:
        """The file that holds the tokens."""
        return self._file.path

    def create(
        self,
        name: str,
        scopes: Iterable[str],
        expires: datetime | None = None,
        *,
        rename: bool = False,
        relay: bool = False,
        replaces: str = "",
        browser: BrowserSession | None = None,
    ) -> tuple[Token, str]:
        """Create a token; return it and its secret text. `rename`: number a name in use instead of raising.

        `relay`: this host's agent may call other hosts for the holder. `replaces`: the id of the holder's current
        token, which is revoked and whose name the new one takes. `browser`: it is the session of a browser.

        Raises:
            InvalidInput: the name is invalid, the scopes are empty, or the expiry has passed.
            Conflict: the name is in use.
            ConfigInvalid: the file cannot be used or written.
        """
        check_token_name(name)
        granted = implied_scopes(scopes)
        if not granted:
            raise InvalidInput("a token needs at least one scope", hint="choose read, operate or exec")
        now = self._clock()
        if expires is not None and expires <= now:
            raise InvalidInput("the expiry time has already passed", hint="choose a later time")
        with self._file.edit() as stored:
            old = stored.get(replaces)
            if old is not None and old.token.revoked is None:
                name = old.token.name
                stored[replaces] = replace(old, token=replace(old.token, revoked=now.replace(microsecond=0)))
            names = {one.token.name for one in stored.values() if one.token.revoked is None}
            if name in names and not rename:
                raise Conflict(
                    f"a token `{name}` already exists", hint=f"revoke it first: anvyl-mcp token revoke {name}"
                )
            identity = _new_id(stored)
            text = f"{PREFIX}{identity}_{secrets.token_urlsafe(48 if browser else 32)}"
            token = Token(identity, _free_name(name, names), granted, now.replace(microsecond=0), expires, relay=relay)
            if browser is not None:
                token = replace(token, browser=True, owner=browser.owner, parent=browser.parent)
            stored[identity] = _StoredToken(token, _digest(text))
        return token, text

    def list(self) -> list[Token]:
        """Return every token that is not revoked, oldest first, with its last use.

        Raises:
            ConfigInvalid: the file cannot be used.
        """
        uses = self._uses.read()
        tokens = [one.token for one in self._file.read().values() if one.token.revoked is None]
        return [_with_use(token, uses.get(token.id)) for token in sorted(tokens, key=lambda token: token.created)]

    def revoke(self, id_or_name: str) -> Token:
        """Revoke a token at once.

        Raises:
            NotFound: there is no such token.
            ConfigInvalid: the file cannot be used or written.
        """
        now = self._clock().replace(microsecond=0)
        with self._file.edit() as stored:
            live = [one for one in stored.values() if one.token.revoked is None]
            found = next((one for one in live if id_or_name in (one.token.id, one.token.name)), None)
            if found is None:
                names = [one.token.name for one in live]
                hint = did_you_mean(id_or_name, names) or "see anvyl-mcp token list"
                raise NotFound(f"there is no token `{id_or_name}`", hint=hint)
            revoked = replace(found.token, revoked=now)
            stored[revoked.id] = _StoredToken(revoked, found.digest)
            for old in [one.token for one in stored.values()]:
                if old.revoked is not None and now - old.revoked > REMEMBER_REVOKED:
                    del stored[old.id]
        return revoked

    def find(self, text: str) -> Token | None:
        """Return the token with this text, even if revoked or expired. Takes constant time.

        Raises:
            ConfigInvalid: the file cannot be used, so every token is refused.
        """
        identity = text.removeprefix(PREFIX).partition("_")[0]
        stored = self._file.read().get(identity)
        same = hmac.compare_digest(_digest(text), stored.digest if stored else _digest(""))
        return stored.token if stored is not None and same else None

    def verify(self, text: str, *, address: str = "") -> Token | None:
        """Return the token with this text if it is valid now, and record its use.

        Raises:
            ConfigInvalid: the file cannot be used, so every token is refused.
        """
        token = self.find(text)
        if token is None or self.refusal(token) is not None:
            return None
        self._uses.record(token.id, self._clock(), address)
        return token

    def refusal(self, token: Token) -> Denied | None:
        """Return the error for the holder of a revoked or expired token, or None if it is valid."""
        what = "session" if token.browser else "token"
        again = SIGN_IN_AGAIN if token.browser else "on that host run `anvyl-mcp invite`, then here `anvyl hosts add`"
        if token.revoked is not None:
            return Denied(f"the {what} `{token.name}` was revoked on {token.revoked:%Y-%m-%d}", hint=again)
        if token.expires is not None and token.expires <= self._clock():
            return Denied(f"the {what} `{token.name}` expired on {token.expires:%Y-%m-%d}", hint=again)
        if token.parent:
            parent = self._file.read().get(token.parent)
            refused = Denied("the token that this session was opened with is gone", hint=again)
            return refused if parent is None else self.refusal(parent.token)
        return None

    def is_valid(self, identity: str) -> bool:
        """Whether the token with this id may still be used.

        Raises:
            ConfigInvalid: the file cannot be used.
        """
        stored = self._file.read().get(identity)
        return stored is not None and self.refusal(stored.token) is None


def check_token_name(name: str) -> str:
    """Check the name of a token, or of a host that gets one; return it.

    Raises:
        InvalidInput: it is malformed, or reserved for callers without a token.
    """
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"`{name[:80]}` is not a valid token name", hint="use letters, digits, dots, dashes and underscores"
        )
    if name.casefold() in RESERVED_NAMES:
        raise InvalidInput(f"the token name `{name}` is reserved for local users", hint="choose another")
    return name


class _Uses:
    """Last use of each token, in a separate file so that a use never writes the token file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._recorded: dict[str, datetime] = {}

    def read(self) -> dict[str, tuple[datetime, str]]:
        """Return time and address by token id; empty if the file cannot be read, because nothing depends on it."""
        try:
            entries = json.loads(self._path.read_bytes())
            return {identity: (_parse_time(use["at"]), str(use["from"])) for identity, use in entries.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def record(self, identity: str, now: datetime, address: str) -> None:
        last = self._recorded.get(identity)
        if last is not None and timedelta(0) <= now - last < RECORD_USE_EVERY:
            return
        self._recorded[identity] = now
        uses = self.read() | {identity: (now, address)}
        entries = {one: {"at": _timestamp(at), "from": where} for one, (at, where) in uses.items()}
        with suppress(OSError):
            write_atomically(self._path, json.dumps(entries), durable=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _new_id(taken: Iterable[str]) -> str:
    identity = secrets.token_hex(4)
    return identity if identity not in taken else _new_id(taken)


def _free_name(name: str, taken: set[str]) -> str:
    numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(one for one in numbered if one not in taken)


def _with_use(token: Token, use: tuple[datetime, str] | None) -> Token:
    return token if use is None else replace(token, last_used=use[0], last_address=use[1])


def _timestamp(when: datetime | None) -> str | None:
    return None if when is None else when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse_time(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError(text)
    return when


def _parse(data: Any) -> dict[str, _StoredToken]:
    if data["version"] != 1:
        raise ValueError(data["version"])
    return {identity: _parse_one(identity, entry) for identity, entry in data["tokens"].items()}


def _parse_one(identity: str, entry: Any) -> _StoredToken:
    digest, scopes = entry["sha256"], entry["scopes"]
    if not re.fullmatch("[0-9a-f]{64}", digest) or not isinstance(scopes, list):
        raise ValueError(identity)
    # A missing key means a damaged file, not a token that never expires or was never revoked.
    expires, revoked = (None if entry[key] is None else _parse_time(entry[key]) for key in ("expires", "revoked"))
    token = Token(identity, str(entry["name"]), implied_scopes(scopes), _parse_time(entry["created"]), expires, revoked)
    # Tokens of older versions lack these.
    browser, owner, parent = (entry.get(key, "") for key in ("browser", "owner", "parent"))
    token = replace(
        token, relay=entry.get("relay") is True, browser=browser is True, owner=str(owner), parent=str(parent)
    )
    return _StoredToken(token, digest)


def _dump(stored: dict[str, _StoredToken]) -> object:
    return {"version": 1, "tokens": {identity: _dump_one(one) for identity, one in stored.items()}}


def _dump_one(stored: _StoredToken) -> dict[str, Any]:
    token = stored.token
    return {
        "name": token.name,
        "scopes": sort_scopes(token.scopes),
        "relay": token.relay,
        **({"browser": True, "owner": token.owner, "parent": token.parent} if token.browser else {}),
        "created": _timestamp(token.created),
        "expires": _timestamp(token.expires),
        "revoked": _timestamp(token.revoked),
        "sha256": stored.digest,
    }
