"""Tokens from an identity provider: who signed them, for whom, until when, and what they allow."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import httpx
import jwt

from anvyl_mcp.core.errors import AnvylError, ConfigInvalid, Denied, InvalidInput, Unreachable
from anvyl_mcp.server.auth.callers import Caller, checked_name, implied

ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""Signatures with a public key only: with a shared one, whoever verifies could also sign."""
LEEWAY_SECONDS = 60
MOST_TOKEN_CHARACTERS = 8192
MOST_KEYS_BYTES = 256 * 1024
FRESH_SECONDS = 600
"""Keys from a URL are taken as they are for so long,"""
STALE_SECONDS = 24 * 3600
"""and for so long when the provider cannot be reached."""
AGAIN_SECONDS = 60
"""Between two fetches, however many tokens name a key that nobody knows."""
SCOPE_CLAIMS = ("scope", "scopes")
OWN_CLAIM = "anvyl_scopes"
SCOPE_PREFIX = "anvyl:"
RELAY = "relay"
"""Among the scopes: this host's agent asks other hosts for the token's holder."""
NEW = "get a new token from your identity provider"

Fetch = Callable[[str], Awaitable[bytes]]


async def fetch(url: str) -> bytes:
    """The keys at a URL, from there and nowhere else.

    Raises:
        Unreachable: they could not be had.
    """
    try:
        async with (
            httpx.AsyncClient(timeout=5, follow_redirects=False) as client,
            client.stream("GET", url, headers={"accept": "application/json"}) as answer,
        ):
            if answer.status_code != 200:
                raise Unreachable(f"{url} answers with {answer.status_code}", hint="check `jwt_keys`")
            body = b""
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > MOST_KEYS_BYTES:
                    raise Unreachable(f"{url} answers with too much for a key set", hint="check `jwt_keys`")
            return body
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(f"{url} does not answer: {error}", hint="check `jwt_keys` and the network") from error


class JwtVerifier:
    """Checks JSON web tokens of one issuer for one audience."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        keys: str,
        fetch: Fetch = fetch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keys`: a JWKS file, or its https URL.

        Raises:
            InvalidInput: something is missing, or the URL is not https.
        """
        if not issuer or not audience or not keys:
            raise InvalidInput("tokens of an identity provider need issuer, audience and keys", hint="set all three")
        if "://" in keys and not keys.startswith("https://"):
            raise InvalidInput(f"`{keys}` is not safe to take keys from", hint="use an https:// URL or a file")
        self._issuer = issuer
        self._audience = audience
        # Short keys are an error, not a warning in a log that nobody reads.
        self._jwt = jwt.PyJWT({"enforce_minimum_key_length": True})
        self._keys = _KeysAt(keys, fetch, clock) if "://" in keys else _KeysIn(Path(keys))

    async def verify(self, token: str) -> Caller:
        """Who the token was made for.

        Raises:
            Denied: it does not count here.
            Unreachable, ConfigInvalid: the keys to check it with cannot be had.
        """
        if len(token) > MOST_TOKEN_CHARACTERS:
            raise Denied("the token is too long", hint=NEW)
        try:
            claims = await self._claims(token)
            subject = checked_name(str(claims["sub"]))
            return Caller(subject, scopes_in(claims), "jwt", id=f"jwt:{subject}", relayed=RELAY in _words_in(claims))
        except AnvylError:
            raise
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise _refusal(error) from error

    async def _claims(self, token: str) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm, name = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise Denied("the token is signed in a way that is not accepted", hint=f"use {', '.join(ALGORITHMS)}")
        for key in await self._keys.get(name):
            if key.algorithm_name == algorithm and name in (None, key.key_id) and key.public_key_use in (None, "sig"):
                try:
                    claims: Mapping[str, Any] = self._jwt.decode(
                        token,
                        key,
                        algorithms=[algorithm],
                        issuer=self._issuer,
                        audience=self._audience,
                        leeway=LEEWAY_SECONDS,
                        options={"require": ["exp", "iss", "aud", "sub"]},
                    )
                    return claims
                except jwt.InvalidSignatureError:
                    continue
        raise Denied("the token is signed with a key that this host does not know", hint=NEW)


def scopes_in(claims: Mapping[str, Any]) -> frozenset[str]:
    """The rights in the claims: words, or a list of them, with or without `anvyl:` before each."""
    return implied(_words_in(claims))


def _words_in(claims: Mapping[str, Any]) -> list[str]:
    names = (OWN_CLAIM,) if OWN_CLAIM in claims else SCOPE_CLAIMS
    words: list[str] = []
    for name in names:
        value = claims.get(name, "")
        words += value.split() if isinstance(value, str) else [one for one in value if isinstance(one, str)]
    return [word.removeprefix(SCOPE_PREFIX) for word in words]


def _refusal(error: Exception) -> Denied:
    match error:
        case jwt.ExpiredSignatureError():
            return Denied("the token has expired", hint=NEW)
        case jwt.ImmatureSignatureError():
            return Denied("the token is not valid yet", hint="check the clocks of both machines")
        case jwt.InvalidAudienceError():
            return Denied("the token was made for another audience", hint="ask for one for this fleet")
        case jwt.InvalidIssuerError():
            return Denied("the token is from another issuer", hint=NEW)
        case jwt.MissingRequiredClaimError():
            return Denied(f"the token has no `{error.claim}`", hint="it needs exp, iss, aud and sub")
    return Denied("the token is damaged", hint=NEW)


def _parsed(content: bytes, where: str) -> list[jwt.PyJWK]:
    try:
        return jwt.PyJWKSet.from_dict(json.loads(content)).keys
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigInvalid(f"{where} holds no keys that can be used", hint="it must be a JWKS document") from error


class _KeysIn:
    """Keys in a file, read when needed so that a new file counts at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[bytes, list[jwt.PyJWK]] = b"", []

    async def get(self, _: str | None) -> list[jwt.PyJWK]:
        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise ConfigInvalid(f"{self._path} cannot be read: {error.strerror}", hint="check `jwt_keys`") from error
        if content != self._known[0] or not content:
            self._known = content, _parsed(content, str(self._path))
        return self._known[1]


class _KeysAt:
    """Keys at a URL, kept for a while."""

    def __init__(self, url: str, fetch: Fetch, clock: Callable[[], float]) -> None:
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._keys: list[jwt.PyJWK] = []
        self._fetched = 0.0
        self._asked: float | None = None
        self._lock = anyio.Lock()

    async def get(self, name: str | None) -> list[jwt.PyJWK]:
        if not self._are_good_for(name):
            async with self._lock:
                if not self._are_good_for(name):
                    await self._refresh()
        if not self._keys or self._clock() - self._fetched > STALE_SECONDS:
            raise Unreachable("the identity provider's keys cannot be had", hint="see this host's log, and try again")
        return self._keys

    def _are_good_for(self, name: str | None) -> bool:
        """Whether there is nothing to gain from asking again, or it is too soon to."""
        now = self._clock()
        known = not self._keys or name is None or name in [key.key_id for key in self._keys]
        fresh = bool(self._keys) and now - self._fetched < FRESH_SECONDS
        return (known and fresh) or (self._asked is not None and now - self._asked < AGAIN_SECONDS)

    async def _refresh(self) -> None:
        self._asked = self._clock()
        try:
            self._keys = _parsed(await self._fetch(self._url), self._url)
            self._fetched = self._clock()
        except AnvylError:
            if not self._keys:
                raise
