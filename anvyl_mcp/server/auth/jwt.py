"""Verification of JSON web tokens of an identity provider."""

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
from anvyl_mcp.server.auth.callers import Caller, check_subject, implied_scopes

ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""Public-key signatures only: with a shared secret, every verifier could also sign."""
LEEWAY_SECONDS = 60
MAX_TOKEN_CHARACTERS = 8192
MAX_KEYS_BYTES = 256 * 1024
FRESH_SECONDS = 600
"""Age at which keys from a URL are fetched again."""
STALE_SECONDS = 24 * 3600
"""Age at which they are no longer used if the provider cannot be reached."""
RETRY_SECONDS = 60
"""Minimum time between two fetches, even if tokens name unknown keys."""
SCOPE_CLAIMS = ("scope", "scopes")
OWN_CLAIM = "anvyl_scopes"
SCOPE_PREFIX = "anvyl:"
RELAY = "relay"
"""Word among the scopes that lets this host's agent call other hosts for the token's holder."""
GET_NEW_TOKEN = "get a new token from your identity provider"

Fetch = Callable[[str], Awaitable[bytes]]


async def fetch(url: str) -> bytes:
    """Fetch the key set at a URL, without following redirects.

    Raises:
        Unreachable: it could not be fetched.
    """
    try:
        async with (
            httpx.AsyncClient(timeout=5, follow_redirects=False) as client,
            client.stream("GET", url, headers={"accept": "application/json"}) as answer,
        ):
            if answer.status_code != 200:
                raise Unreachable(f"{url} answered with status {answer.status_code}", hint="check `jwt_keys`")
            body = b""
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > MAX_KEYS_BYTES:
                    raise Unreachable(f"the answer of {url} is too large for a key set", hint="check `jwt_keys`")
            return body
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(f"{url} does not answer: {error}", hint="check `jwt_keys` and the network") from error


class JwtVerifier:
    """Verifies JSON web tokens of one issuer for one audience."""

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
            InvalidInput: an argument is empty, or the URL is not https.
        """
        if not issuer or not audience or not keys:
            raise InvalidInput(
                "tokens of an identity provider need an issuer, an audience and keys",
                hint="set `jwt_issuer`, `jwt_audience` and `jwt_keys`",
            )
        if "://" in keys and not keys.startswith("https://"):
            raise InvalidInput(f"`{keys}` is not a safe source of keys", hint="use an https:// URL or a file")
        self._issuer = issuer
        self._audience = audience
        # Short keys are an error, not only a warning in the log.
        self._jwt = jwt.PyJWT({"enforce_minimum_key_length": True})
        self._keys = _KeyUrl(keys, fetch, clock) if "://" in keys else _KeyFile(Path(keys))

    async def verify(self, token: str) -> Caller:
        """Return the token's holder.

        Raises:
            Denied: the token is not valid for this host.
            Unreachable, ConfigInvalid: the keys cannot be loaded.
        """
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise Denied("the token is too long", hint=GET_NEW_TOKEN)
        try:
            claims = await self._claims(token)
            subject = check_subject(str(claims["sub"]))
            return Caller(subject, scopes_in(claims), "jwt", id=f"jwt:{subject}", relayed=RELAY in _scope_words(claims))
        except AnvylError:
            raise
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise _refusal(error) from error

    async def _claims(self, token: str) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm, name = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise Denied("the token's signature algorithm is not accepted", hint=f"use {', '.join(ALGORITHMS)}")
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
        raise Denied("the token is signed with an unknown key", hint=GET_NEW_TOKEN)


def scopes_in(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes in the claims: a string or a list, each with or without the prefix `anvyl:`."""
    return implied_scopes(_scope_words(claims))


def _scope_words(claims: Mapping[str, Any]) -> list[str]:
    names = (OWN_CLAIM,) if OWN_CLAIM in claims else SCOPE_CLAIMS
    words: list[str] = []
    for name in names:
        value = claims.get(name, "")
        words += value.split() if isinstance(value, str) else [one for one in value if isinstance(one, str)]
    return [word.removeprefix(SCOPE_PREFIX) for word in words]


def _refusal(error: Exception) -> Denied:
    match error:
        case jwt.ExpiredSignatureError():
            return Denied("the token has expired", hint=GET_NEW_TOKEN)
        case jwt.ImmatureSignatureError():
            return Denied("the token is not valid yet", hint="check the clocks of both machines")
        case jwt.InvalidAudienceError():
            return Denied("the token is for another audience", hint="request one for this fleet")
        case jwt.InvalidIssuerError():
            return Denied("the token is from another issuer", hint=GET_NEW_TOKEN)
        case jwt.MissingRequiredClaimError():
            return Denied(f"the token has no `{error.claim}`", hint="it needs exp, iss, aud and sub")
    return Denied("the token is damaged", hint=GET_NEW_TOKEN)


def _parse_keys(content: bytes, where: str) -> list[jwt.PyJWK]:
    try:
        return jwt.PyJWKSet.from_dict(json.loads(content)).keys
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigInvalid(f"{where} contains no usable keys", hint="it must be a JWKS document") from error


class _KeyFile:
    """Keys in a file, read at each use so that a new file takes effect at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cached: tuple[bytes, list[jwt.PyJWK]] = b"", []

    async def get(self, _: str | None) -> list[jwt.PyJWK]:
        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise ConfigInvalid(f"{self._path} cannot be read: {error.strerror}", hint="check `jwt_keys`") from error
        if content != self._cached[0] or not content:
            self._cached = content, _parse_keys(content, str(self._path))
        return self._cached[1]


class _KeyUrl:
    """Keys at a URL, cached."""

    def __init__(self, url: str, fetch: Fetch, clock: Callable[[], float]) -> None:
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._keys: list[jwt.PyJWK] = []
        self._fetched = 0.0
        self._last_attempt: float | None = None
        self._lock = anyio.Lock()

    async def get(self, name: str | None) -> list[jwt.PyJWK]:
        if not self._is_current(name):
            async with self._lock:
                if not self._is_current(name):
                    await self._refresh()
        if not self._keys or self._clock() - self._fetched > STALE_SECONDS:
            raise Unreachable("cannot fetch the identity provider's keys", hint="see this host's log, and try again")
        return self._keys

    def _is_current(self, name: str | None) -> bool:
        """Whether the keys are fresh and include `name`, or it is too soon to fetch again."""
        now = self._clock()
        known = not self._keys or name is None or name in [key.key_id for key in self._keys]
        fresh = bool(self._keys) and now - self._fetched < FRESH_SECONDS
        return (known and fresh) or (self._last_attempt is not None and now - self._last_attempt < RETRY_SECONDS)

    async def _refresh(self) -> None:
        self._last_attempt = self._clock()
        try:
            self._keys = _parse_keys(await self._fetch(self._url), self._url)
            self._fetched = self._clock()
        except AnvylError:
            if not self._keys:
                raise
