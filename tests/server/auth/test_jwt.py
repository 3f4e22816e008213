"""Tokens of an identity provider: signature, issuer, audience and time must be valid."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from anvyl_mcp.core.errors import ConfigInvalid, Denied, InvalidInput, Unreachable
from anvyl_mcp.server.auth.jwt import JwtVerifier, fetch, scopes_in

ISSUER = "https://id.example"
AUDIENCE = "anvyl"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
KEYS: dict[str, Any] = {"RS256": RSA, "ES256": EC, "EdDSA": ED}
PUBLIC = [
    RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True) | {"kid": "RS256", "use": "sig"},
    ECAlgorithm.to_jwk(EC.public_key(), as_dict=True) | {"kid": "ES256"},
    OKPAlgorithm.to_jwk(ED.public_key(), as_dict=True) | {"kid": "EdDSA", "alg": "EdDSA"},
]
JWKS = json.dumps({"keys": PUBLIC}).encode()


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    sound = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": now + 600, "iat": now, "scope": "read operate"}
    return {name: value for name, value in (sound | changed).items() if value is not None}


def signed(algorithm: str = "ES256", *, kid: str | None = "", key: Any = None, **changed: Any) -> str:
    headers = {"kid": kid or algorithm} if kid is not None else None
    return pyjwt.encode(claims(**changed), key or KEYS[algorithm], algorithm, headers=headers)


@pytest.fixture
def verifier(tmp_path: Path) -> JwtVerifier:
    (tmp_path / "keys.json").write_bytes(JWKS)
    return JwtVerifier(issuer=ISSUER, audience=AUDIENCE, keys=str(tmp_path / "keys.json"))


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_valid_token_yields_its_caller_and_scopes(verifier: JwtVerifier, algorithm: str) -> None:
    caller = await verifier.verify(signed(algorithm))

    assert (caller.name, caller.how, caller.id) == ("ann", "jwt", "jwt:ann")
    assert caller.scopes == {"read", "operate"}


async def test_a_token_without_a_key_name_is_tried_with_the_keys_of_its_kind(verifier: JwtVerifier) -> None:
    assert (await verifier.verify(signed(kid=None))).name == "ann"


NOW = int(time.time())
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"exp": NOW - 61}, "has expired"),
    "not yet": ({"nbf": NOW + 86400}, "not valid yet"),
    "issued tomorrow": ({"iat": NOW + 86400}, "not valid yet"),
    "other audience": ({"aud": "grafana"}, "another audience"),
    "other audiences": ({"aud": ["grafana", "anvyl2"]}, "another audience"),
    "other issuer": ({"iss": "https://evil.example"}, "another issuer"),
    "no expiry": ({"exp": None}, "has no `exp`"),
    "no audience": ({"aud": None}, "has no `aud`"),
    "no issuer": ({"iss": None}, "has no `iss`"),
    "nobody": ({"sub": None}, "has no `sub`"),
    "subject of another kind": ({"sub": ["ann"]}, "damaged"),
    "expiry of another kind": ({"exp": "soon"}, "damaged"),
    "endless expiry": ({"exp": float("inf")}, "damaged"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_invalid_claims_are_refused_with_a_reason(verifier: JwtVerifier, case: str) -> None:
    changed, words = REFUSED[case]

    with pytest.raises(Denied, match=words) as raised:
        await verifier.verify(signed(**changed))
    assert raised.value.hint


async def test_clocks_may_differ_by_a_minute(verifier: JwtVerifier) -> None:
    assert (await verifier.verify(signed(exp=int(time.time()) - 50, nbf=int(time.time()) + 50))).name == "ann"


async def test_our_audience_may_be_one_of_several(verifier: JwtVerifier) -> None:
    assert (await verifier.verify(signed(aud=["grafana", AUDIENCE]))).name == "ann"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def with_public_key_as_secret() -> str:
    """HS256 with the public key as secret: the classic algorithm confusion."""
    public = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head = encoded(json.dumps({"alg": "HS256", "kid": "RS256"}).encode())
    body = encoded(json.dumps(claims()).encode())
    return f"{head}.{body}.{encoded(hmac.digest(public, f'{head}.{body}'.encode(), hashlib.sha256))}"


STRANGER = ec.generate_private_key(ec.SECP256R1())
FORGED: dict[str, Callable[[], str]] = {
    "unsigned": lambda: pyjwt.encode(claims(), "", "none", headers={"kid": "ES256"}),
    "public key as secret": with_public_key_as_secret,
    "shared secret": lambda: pyjwt.encode(claims(), "x" * 64, "HS256", headers={"kid": "RS256"}),
    "other rsa padding": lambda: pyjwt.encode(claims(), RSA, "PS256", headers={"kid": "RS256"}),
    "key of somebody else": lambda: signed(key=STRANGER),
    "unknown key name": lambda: signed(kid="other"),
    "name of another key": lambda: signed("ES256", kid="RS256"),
    "signature cut off": lambda: signed().rpartition(".")[0] + ".",
    "own key in the header": lambda: pyjwt.encode(
        claims(),
        STRANGER,
        "ES256",
        headers={"kid": "ES256", "jwk": ECAlgorithm.to_jwk(STRANGER.public_key(), as_dict=True)},
    ),
    "unknown critical header": lambda: pyjwt.encode(
        claims(), EC, "ES256", headers={"kid": "ES256", "crit": ["x"], "x": 1}
    ),
    "very long": lambda: signed(filler="x" * 9000),
    "empty": lambda: "",
    "dots": lambda: "..",
    "no text": lambda: "\ud800.\udfff.",
    "deep": lambda: f"{encoded(b'[' * 4000)}.e30.",
}


@pytest.mark.parametrize("forgery", FORGED)
async def test_forgeries_are_refused(verifier: JwtVerifier, forgery: str) -> None:
    with pytest.raises(Denied):
        await verifier.verify(FORGED[forgery]())


async def test_a_token_changed_anywhere_is_refused(verifier: JwtVerifier) -> None:
    token, chance = signed(), random.Random(7)
    signature = token.rindex(".")
    for _ in range(300):
        # The last character of a part has unused bits.
        place = chance.choice([i for i in range(len(token)) if token[i + 1 : i + 2] not in ("", ".")])
        other = chance.choice("ABCdef012-_.=\n\0ä")
        if other != token[place] and not (place > signature and other in "=\n"):
            with pytest.raises(Denied):
                await verifier.verify(token[:place] + other + token[place + 1 :])


@pytest.mark.parametrize(
    ("given", "scopes"),
    [
        ({"scope": "openid anvyl:operate email"}, {"read", "operate"}),
        ({"scopes": ["anvyl:exec"]}, {"read", "operate", "exec"}),
        ({"anvyl_scopes": "read", "scope": "exec"}, {"read"}),
        ({"anvyl_scopes": [], "scope": "exec"}, set()),
        ({"scope": "READ anvyl_read executive"}, set()),
        ({"scopes": [1, None, ["exec"]]}, set()),
        ({}, set()),
    ],
)
def test_claims_are_mapped_to_scopes(given: dict[str, Any], scopes: set[str]) -> None:
    assert scopes_in(given) == scopes


async def test_scopes_of_a_wrong_type_are_refused(verifier: JwtVerifier) -> None:
    with pytest.raises(Denied, match="damaged"):
        await verifier.verify(signed(scope=7))


async def test_a_short_rsa_key_is_not_trusted(tmp_path: Path) -> None:
    small = rsa.generate_private_key(65537, 1024)
    (tmp_path / "keys.json").write_text(
        json.dumps({"keys": [RSAAlgorithm.to_jwk(small.public_key(), as_dict=True)]}), encoding="utf-8"
    )
    verifier = JwtVerifier(issuer=ISSUER, audience=AUDIENCE, keys=str(tmp_path / "keys.json"))
    head, body = encoded(b'{"alg":"RS256"}'), encoded(json.dumps(claims()).encode())
    signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(f"{head}.{body}".encode(), small)

    with pytest.raises(Denied):
        await verifier.verify(f"{head}.{body}.{encoded(signature)}")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"keys": []}', b'{"keys": [{"kty": "EC"}]}', b"\xff"])
async def test_an_unusable_key_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys.json"
    verifier = JwtVerifier(issuer=ISSUER, audience=AUDIENCE, keys=str(file))
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        await verifier.verify(signed())
    file.write_bytes(content)
    with pytest.raises(ConfigInvalid, match="contains no usable keys"):
        await verifier.verify(signed())


@pytest.mark.parametrize("given", [("", AUDIENCE, "keys.json"), (ISSUER, "", "keys.json"), (ISSUER, AUDIENCE, "")])
def test_issuer_audience_and_keys_are_all_required(given: tuple[str, str, str]) -> None:
    issuer, audience, keys = given
    with pytest.raises(InvalidInput, match="need an issuer, an audience and keys"):
        JwtVerifier(issuer=issuer, audience=audience, keys=keys)


def test_keys_over_plain_http_are_refused() -> None:
    with pytest.raises(InvalidInput, match="https"):
        JwtVerifier(issuer=ISSUER, audience=AUDIENCE, keys="http://id.example/jwks")


class Provider:
    """An identity provider whose keys and faults tests set."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.keys = PUBLIC
        self.down = False
        self.asked = 0
        self.verifier = JwtVerifier(
            issuer=ISSUER, audience=AUDIENCE, keys=f"{ISSUER}/jwks", fetch=self.fetch, clock=lambda: self.now
        )

    async def fetch(self, url: str) -> bytes:
        assert url == f"{ISSUER}/jwks"
        self.asked += 1
        if self.down:
            raise Unreachable("the provider does not answer")
        return json.dumps({"keys": self.keys}).encode()


async def test_fetched_keys_are_cached() -> None:
    provider = Provider()
    for _ in range(20):
        await provider.verifier.verify(signed())
    assert provider.asked == 1

    provider.now += 601
    await provider.verifier.verify(signed())
    assert provider.asked == 2


async def test_a_new_key_is_fetched_and_unknown_key_names_cannot_flood_the_provider() -> None:
    provider = Provider()
    provider.keys = PUBLIC[:1]
    await provider.verifier.verify(signed("RS256"))
    provider.keys, provider.now = PUBLIC, provider.now + 61

    assert (await provider.verifier.verify(signed("EdDSA"))).name == "ann"
    for number in range(20):
        with pytest.raises(Denied):
            await provider.verifier.verify(signed(kid=f"made-up-{number}"))
    assert provider.asked == 2


async def test_cached_keys_are_used_for_a_day_while_the_provider_is_down() -> None:
    provider = Provider()
    await provider.verifier.verify(signed())
    provider.down = True

    provider.now += 23 * 3600
    assert (await provider.verifier.verify(signed())).name == "ann"
    provider.now += 2 * 3600
    with pytest.raises(Unreachable, match="cannot fetch the identity provider's keys"):
        await provider.verifier.verify(signed())


async def test_an_unreachable_provider_is_retried_later() -> None:
    provider = Provider()
    provider.down = True
    for _ in range(5):
        with pytest.raises(Unreachable):
            await provider.verifier.verify(signed())
    assert provider.asked == 1

    provider.down, provider.now = False, provider.now + 61
    assert (await provider.verifier.verify(signed())).name == "ann"


ANSWERS: dict[str, tuple[httpx.Response, str]] = {
    "moved": (httpx.Response(302, headers={"location": "https://evil.example/jwks"}), "answered with status 302"),
    "broken": (httpx.Response(500, content=JWKS), "answered with status 500"),
    "huge": (httpx.Response(200, content=b" " * 300_000), "too large for a key set"),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_keys_come_only_from_the_configured_url(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, words = ANSWERS[case]
    asked = provider_at(monkeypatch, lambda _: answer)

    with pytest.raises(Unreachable, match=words):
        await fetch(f"{ISSUER}/jwks")
    assert asked == [f"{ISSUER}/jwks"]


async def test_keys_are_fetched_from_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    provider_at(monkeypatch, lambda _: httpx.Response(200, content=JWKS))

    assert await fetch(f"{ISSUER}/jwks") == JWKS


async def test_an_unreachable_provider_is_reported_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    provider_at(monkeypatch, refuse)
    with pytest.raises(Unreachable, match="does not answer: connection refused"):
        await fetch(f"{ISSUER}/jwks")


def provider_at(monkeypatch: pytest.MonkeyPatch, answer: Callable[[httpx.Request], httpx.Response]) -> list[str]:
    """Replace the network by `answer`; returns the list of requested URLs."""
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return answer(request)

    client = partial(httpx.AsyncClient, transport=httpx.MockTransport(handle))
    monkeypatch.setattr(httpx, "AsyncClient", client)
    return asked
