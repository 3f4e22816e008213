"""TLS that trusts one key: who answers with another is refused during the handshake, before anything is sent to it.

No authority, no host name, no clock: a host's address and its certificate may change, its key may not.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from anvyl_mcp.core.invitation import pin_digest

MOST_CERTIFICATE_BYTES = 64 * 1024

_INTEGER, _SEQUENCE, _VERSION = 0x02, 0x30, 0xA0
_BEFORE_KEY = (_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE)
"""Serial number, signature algorithm, issuer, validity, subject."""


class WrongKey(ssl.SSLError):
    """The other end proved a key, and it is not the one expected."""


@dataclass(frozen=True, slots=True)
class NextKey:
    """The pin of the key that a host said it will have next; `proved` is called whenever it proves that one."""

    pin: str
    proved: Callable[[], None]


def pinned_context(pins: Iterable[str], following: NextKey | None = None) -> ssl.SSLContext:
    """A TLS 1.3 client context for hosts that hold the key of one of `pins`, or the one `following`.

    Raises:
        InvalidInput: something is no pin, or there is none.
    """
    expected = [pin_digest(pin) for pin in pins] or [pin_digest("")]
    last = pin_digest(following.pin) if following else b""

    def check(connection: ssl.SSLObject | ssl.SSLSocket) -> None:
        key = public_key(connection.getpeercert(binary_form=True) or b"")
        found = hashlib.sha256(key).digest()
        if key and any(hmac.compare_digest(found, digest) for digest in expected):
            return
        if not key or following is None or not hmac.compare_digest(found, last):
            raise WrongKey("the key is not the one that was expected")
        following.proved()

    # The hooks that asyncio, anyio, HTTP clients and the standard library all pass through.
    class PinnedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            check(self)

    class PinnedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            check(self)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslobject_class = PinnedObject
    context.sslsocket_class = PinnedSocket
    return context


def public_key(certificate: bytes) -> bytes:
    """The public key (SubjectPublicKeyInfo, DER) in a certificate; nothing when it cannot be read beyond doubt.

    It must find the very key that OpenSSL checked the handshake with, so it takes strict DER and nothing else.
    """
    if len(certificate) > MOST_CERTIFICATE_BYTES:
        return b""
    try:
        whole, rest = _element(certificate, _SEQUENCE)
        signed, signature = _element(_content(whole), _SEQUENCE)
        if rest or not signature:
            return b""
        fields = _content(signed)
        if fields[:1] == bytes([_VERSION]):
            _, fields = _element(fields, _VERSION)
        for tag in _BEFORE_KEY:
            _, fields = _element(fields, tag)
        return _element(fields, _SEQUENCE)[0]
    except ValueError:
        return b""


def _element(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """The first element of `data`, header and all, and what follows it."""
    end = sum(_header(data))
    if data[0] != tag or end > len(data):
        raise ValueError
    return data[:end], data[end:]


def _content(element: bytes) -> bytes:
    return element[_header(element)[0] :]


def _header(data: bytes) -> tuple[int, int]:
    """Bytes of an element's header, and of its content."""
    if len(data) < 2:
        raise ValueError
    length = data[1]
    if length < 0x80:
        return 2, length
    # One spelling for each length, as DER has it; two bytes reach as far as a certificate may.
    octets = data[2 : 2 + length - 0x80]
    if not 1 <= length - 0x80 <= 2 or len(octets) != length - 0x80 or octets[0] == 0:
        raise ValueError
    value = int.from_bytes(octets, "big")
    if value < 0x80:
        raise ValueError
    return 2 + len(octets), value
