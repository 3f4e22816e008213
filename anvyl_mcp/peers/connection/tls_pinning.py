"""TLS with pinned keys: a server with another key is rejected in the handshake, before anything is sent.

Certificate authority, host name and expiry are not checked: address and certificate of a host may change, its key not.
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
    """The server's key is not the pinned one."""


@dataclass(frozen=True, slots=True)
class NextPin:
    """The pin of the key that a host announced as its next one; `on_used` is called whenever the host uses it."""

    pin: str
    on_used: Callable[[], None]


def pinned_context(pins: Iterable[str], next_key: NextPin | None = None) -> ssl.SSLContext:
    """Return a TLS 1.3 client context for hosts that have the key of one of `pins`, or `next_key`.

    Raises:
        InvalidInput: a pin is malformed, or none is given.
    """
    expected = [pin_digest(pin) for pin in pins] or [pin_digest("")]
    announced = pin_digest(next_key.pin) if next_key else b""

    def check(connection: ssl.SSLObject | ssl.SSLSocket) -> None:
        key = public_key(connection.getpeercert(binary_form=True) or b"")
        found = hashlib.sha256(key).digest()
        if key and any(hmac.compare_digest(found, digest) for digest in expected):
            return
        if not key or next_key is None or not hmac.compare_digest(found, announced):
            raise WrongKey("the server's key is not the pinned one")
        next_key.on_used()

    # asyncio, anyio, HTTP clients and the standard library all call these methods.
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
    """Return the public key (SubjectPublicKeyInfo, DER) of a certificate; empty if it is not strict DER.

    Strict, because it must find the same key that OpenSSL verified the handshake with.
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
    """Split `data` into its first element, including its header, and the rest."""
    end = sum(_header(data))
    if data[0] != tag or end > len(data):
        raise ValueError
    return data[:end], data[end:]


def _content(element: bytes) -> bytes:
    return element[_header(element)[0] :]


def _header(data: bytes) -> tuple[int, int]:
    """Return the lengths of an element's header and content, in bytes."""
    if len(data) < 2:
        raise ValueError
    length = data[1]
    if length < 0x80:
        return 2, length
    # DER allows one encoding per length; two bytes are enough for MOST_CERTIFICATE_BYTES.
    octets = data[2 : 2 + length - 0x80]
    if not 1 <= length - 0x80 <= 2 or len(octets) != length - 0x80 or octets[0] == 0:
        raise ValueError
    value = int.from_bytes(octets, "big")
    if value < 0x80:
        raise ValueError
    return 2 + len(octets), value
