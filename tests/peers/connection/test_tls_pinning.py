"""The pin is checked during the handshake, so a server with another key receives no data."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from anvyl_mcp.core.errors import InvalidInput, Unreachable
from anvyl_mcp.core.invitation import pin_text
from anvyl_mcp.peers.connection import connection_errors
from anvyl_mcp.peers.connection.tls_pinning import MOST_CERTIFICATE_BYTES, WrongKey, pinned_context, public_key
from anvyl_mcp.server.auth.certificate import host_identity, pin_of
from tests.support.hosts.tls_server import (
    Key,
    TlsRecorder,
    certificate_of,
    record_tls,
    server_context,
    spki,
    write_pair,
)

KEYS: dict[str, Key] = {
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "rsa": rsa.generate_private_key(65537, 2048),
}
OTHER_PIN = pin_text(hashlib.sha256(b"other").digest())
MESSAGE = b"secret token"


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def pin_of_key(key: Key) -> str:
    return pin_text(hashlib.sha256(spki(key)).digest())


@pytest.fixture
def pinned(tmp_path: Path) -> Iterator[tuple[TlsRecorder, str]]:
    """A server, and the pin of its key."""
    identity = host_identity(tmp_path / "identity")
    with record_tls(identity.tls()) as heard:
        yield heard, identity.pin


def say(secure: ssl.SSLSocket) -> None:
    """Send data and wait until the server has read it."""
    secure.sendall(MESSAGE)
    secure.shutdown(socket.SHUT_WR)
    while secure.recv(4096):
        pass


def tell(port: int, context: ssl.SSLContext) -> None:
    """Send data over the standard library's sockets."""
    with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain) as secure:
        say(secure)


def send_with_explicit_handshake(port: int, context: ssl.SSLContext) -> None:
    """Send data after an explicit handshake, as the lean client does."""
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain, do_handshake_on_connect=False) as secure,
    ):
        secure.do_handshake()
        say(secure)


def send_over_asyncio(port: int, context: ssl.SSLContext) -> None:
    """Send data over asyncio."""

    async def tell() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
        writer.write(MESSAGE)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    asyncio.run(asyncio.wait_for(tell(), 5))


WAYS = {"socket": tell, "handshake later": send_with_explicit_handshake, "asyncio": send_over_asyncio}
ways = pytest.mark.parametrize("way", WAYS)


@ways
def test_the_paired_host_receives_the_data(pinned: tuple[TlsRecorder, str], way: str) -> None:
    heard, pin = pinned
    WAYS[way](heard.port, pinned_context([pin]))
    assert heard.done.wait(5)
    assert heard.data == MESSAGE


@ways
def test_any_of_several_pins_is_accepted_during_key_rotation(pinned: tuple[TlsRecorder, str], way: str) -> None:
    heard, pin = pinned
    WAYS[way](heard.port, pinned_context([OTHER_PIN, pin]))
    assert heard.done.wait(5)
    assert heard.data == MESSAGE


@ways
def test_an_impostor_receives_no_data(pinned: tuple[TlsRecorder, str], way: str) -> None:
    heard, _ = pinned
    with pytest.raises(WrongKey) as raised:
        WAYS[way](heard.port, pinned_context([OTHER_PIN]))
    assert heard.done.wait(5)
    assert heard.data == b""
    error = connection_errors.connect_error(raised.value)
    assert isinstance(error, Unreachable)
    assert error.message.startswith("its key is not the one it was paired with")
    assert "anvyl hosts remove NAME" in error.hint


@ways
def test_a_copied_certificate_with_another_key_is_rejected(tmp_path: Path, way: str) -> None:
    """The names of the paired host's certificate are public; only its key is not."""
    genuine, fake = KEYS["p256"], ec.generate_private_key(ec.SECP256R1())
    with record_tls(server_context(write_pair(tmp_path, fake, certificate_of(fake)))) as heard:
        with pytest.raises(WrongKey):
            WAYS[way](heard.port, pinned_context([pin_of_key(genuine)]))
        assert heard.done.wait(5)
    assert heard.data == b""


@pytest.mark.parametrize("years", [-5, 30])
@ways
def test_expiry_is_ignored(tmp_path: Path, way: str, years: int) -> None:
    """To a client with a wrong clock, a valid certificate looks expired too."""
    key = KEYS["p256"]
    with record_tls(server_context(write_pair(tmp_path, key, certificate_of(key, years=years)))) as heard:
        WAYS[way](heard.port, pinned_context([pin_of_key(key)]))
        assert heard.done.wait(5)
    assert heard.data == MESSAGE


@ways
def test_older_tls_versions_are_rejected(tmp_path: Path, way: str) -> None:
    key = KEYS["p256"]
    context = server_context(write_pair(tmp_path, key, certificate_of(key)))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with record_tls(context) as heard:
        with pytest.raises(ssl.SSLError):
            WAYS[way](heard.port, pinned_context([pin_of_key(key)]))
        assert heard.done.wait(5)
    assert (heard.handshakes, bytes(heard.data)) == (0, b"")


@pytest.mark.parametrize("pins", [[], [""], ["sha256:"], [OTHER_PIN, "nonsense"]])
def test_a_context_needs_a_valid_pin(pins: list[str]) -> None:
    with pytest.raises(InvalidInput, match="is not a pin"):
        pinned_context(pins)


@pytest.mark.parametrize("names", [1, 4, 40])
@pytest.mark.parametrize("kind", KEYS)
def test_the_public_key_is_found_in_every_certificate(kind: str, names: int) -> None:
    key = KEYS[kind]
    certificate = der(certificate_of(key, names=names))
    assert public_key(certificate) == spki(key)


def test_server_and_client_compute_the_same_pin(tmp_path: Path) -> None:
    identity = host_identity(tmp_path)
    certificate = ssl.PEM_cert_to_DER_cert(identity.certificate.read_text(encoding="ascii"))
    assert identity.pin == pin_of(certificate) == pin_text(hashlib.sha256(public_key(certificate)).digest())
    for key in KEYS.values():
        assert pin_of(der(certificate_of(key))) == pin_of_key(key)


def test_a_mutated_certificate_never_yields_another_key_than_openssl() -> None:
    dice = random.Random(5)
    read = 0
    for kind in ("p256", "ed25519"):
        original = der(certificate_of(KEYS[kind]))
        for _ in range(4000):
            changed = bytearray(original)
            for _ in range(dice.choice((1, 1, 2, 5))):
                place = dice.randrange(min(len(changed), 300))
                match dice.randrange(3):
                    case 0:
                        changed[place] = dice.randrange(256)
                    case 1:
                        changed.insert(place, dice.randrange(256))
                    case _:
                        del changed[place]
            found = public_key(bytes(changed))
            seen = seen_by_cryptography(bytes(changed))
            if found and seen:
                read += 1
                assert found == seen
    assert read > 100


def seen_by_cryptography(certificate: bytes) -> bytes:
    encoding, layout = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        return x509.load_der_x509_certificate(certificate).public_key().public_bytes(encoding, layout)
    except Exception:  # noqa: BLE001  whatever it says about such a certificate, it sees no key in it
        return b""


def test_garbage_yields_no_key_and_no_crash() -> None:
    dice = random.Random(6)
    original = der(certificate_of(KEYS["p256"]))
    for length in range(len(original)):
        assert public_key(original[:length]) == b""
    for _ in range(3000):
        public_key(dice.randbytes(dice.randrange(80)))
        public_key(bytes([0x30, 0x82, *dice.randbytes(dice.randrange(80))]))


def element(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    octets = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 + len(octets)]) + octets + content


EMPTY = element(0x30)
SERIAL = element(2, b"\x01")
KEY = element(0x30, b"the key")
BEFORE = (SERIAL, EMPTY, EMPTY, EMPTY, EMPTY)
VERSION = element(0xA0, element(2, b"\x02"))


def certificate(*fields: bytes, after: bytes = EMPTY) -> bytes:
    return element(0x30, element(0x30, *fields), after)


def test_the_key_of_a_version_1_certificate_is_found() -> None:
    assert public_key(certificate(VERSION, *BEFORE, KEY, EMPTY)) == KEY
    assert public_key(certificate(*BEFORE, KEY)) == KEY


LONG = element(0x30, b"x" * 300)

DOUBTFUL = {
    "nothing": b"",
    "no key": certificate(VERSION, *BEFORE),
    "two versions": certificate(VERSION, VERSION, *BEFORE, KEY),
    "a field too many": certificate(VERSION, SERIAL, *BEFORE, KEY),
    "a field of another kind": certificate(VERSION, SERIAL, EMPTY, EMPTY, SERIAL, EMPTY, KEY),
    "a key of another kind": certificate(VERSION, *BEFORE, element(0x31, b"the key")),
    "no signature": element(0x30, element(0x30, VERSION, *BEFORE, KEY)),
    "more after it": certificate(VERSION, *BEFORE, KEY) + b"\x00",
    "a set": b"\x31" + certificate(VERSION, *BEFORE, KEY)[1:],
    "no end": b"\x30\x80" + certificate(VERSION, *BEFORE, KEY)[2:] + b"\x00\x00",
    "a length in more bytes than needed": certificate(VERSION, SERIAL, EMPTY, EMPTY, EMPTY, b"\x30\x81\x00", KEY),
    "a short length in the long way": certificate(VERSION, SERIAL, EMPTY, EMPTY, EMPTY, b"\x30\x81\x01x", KEY),
    "a length with a leading zero": certificate(VERSION, SERIAL, b"\x30\x82\x00\x80" + b"x" * 128, *BEFORE[2:], KEY),
    "a length beyond its parent": certificate(VERSION, *BEFORE, b"\x30\x7f" + b"x"),
    "a length of four bytes": certificate(VERSION, SERIAL, b"\x30\x84\x00\x00\x00\x00", *BEFORE[2:], KEY),
    "a length that is cut": b"\x30\x82\x01",
    "too large": element(0x30, b"x" * MOST_CERTIFICATE_BYTES),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_an_ambiguous_encoding_yields_no_key(name: str) -> None:
    assert public_key(DOUBTFUL[name]) == b""


def test_long_fields_are_skipped() -> None:
    assert public_key(certificate(VERSION, SERIAL, LONG, LONG, LONG, LONG, KEY)) == KEY
