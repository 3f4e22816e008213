"""Join codes: one line with the addresses and the pinned key of a host, and a one-time secret."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
from dataclasses import dataclass, field

from anvyl_mcp.core.errors import InvalidInput

MAX_ADDRESSES = 4
SECRET_BYTES = 16
PIN_PREFIX = "sha256:"
"""Prefix of a pin. 32 bytes in base64url without padding follow."""

_VERSION = "1"
_DIGEST_BYTES = 32
_CHECK_BYTES = 4
_IPV4, _IPV6, _NAME = 4, 6, 0
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?", re.ASCII)
_PREFIX = re.compile(r"anv([0-9]+)-", re.ASCII | re.IGNORECASE)
_BODY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
# Characters around a code, or between its lines, when it is pasted from a terminal, mail or chat.
_NOISE = re.compile("[\\s\"'`´‘’‚“”„«»<>()\\[\\].,;:\u00ad\u200b-\u200f\u2060\ufeff]+")
_DASHES = str.maketrans({"‐": "-", "‑": "-", "‒": "-", "–": "-", "−": "-", "—": "--"})
_AGAIN = "copy the whole line again; it starts with anv1-"
_MAKE = "to make one, run this on the other host: anvyl-mcp invite"


@dataclass(frozen=True, slots=True)
class Invitation:
    """Content of a join code: `host:port` addresses, the pin of the host, and a one-time secret.

    The secret is 128 bits, written as 22 characters of URL-safe base64.
    """

    addresses: tuple[str, ...]
    pin: str
    secret: str = field(repr=False)

    def encode(self) -> str:
        """Return the code, `anv1-…`.

        Raises:
            InvalidInput: there are no or too many addresses, or a part has the wrong format.
        """
        if not 1 <= len(self.addresses) <= MAX_ADDRESSES:
            raise InvalidInput(f"a join code holds 1 to {MAX_ADDRESSES} addresses, not {len(self.addresses)}")
        secret = _from_base64(self.secret)
        if len(secret) != SECRET_BYTES:
            raise InvalidInput("the secret of a join code must be 22 characters of base64")
        content = pin_digest(self.pin) + secret + b"".join(_pack_address(address) for address in self.addresses)
        return f"anv{_VERSION}-{_to_base64(content + _checksum(content))}"

    @classmethod
    def decode(cls, text: str) -> Invitation:
        """Parse a code, ignoring quotes, spaces and line breaks around and inside it.

        Raises:
            InvalidInput: the text is not a join code, or is damaged.
        """
        content = _checked_content(_code_body(text))
        digest, rest = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        secret, rest = rest[:SECRET_BYTES], rest[SECRET_BYTES:]
        addresses = []
        while rest:
            address, rest = _unpack_address(rest)
            addresses.append(address)
        if not 1 <= len(addresses) <= MAX_ADDRESSES:
            raise _damaged_code()
        return cls(tuple(addresses), pin_text(digest), _to_base64(secret))


def pin_text(digest: bytes) -> str:
    """Format the SHA-256 of a public key as a pin."""
    return PIN_PREFIX + _to_base64(digest)


def pin_digest(pin: str) -> bytes:
    """Parse a pin and return the SHA-256.

    Raises:
        InvalidInput: the text is not a pin.
    """
    digest = _from_base64(pin.removeprefix(PIN_PREFIX)) if pin.startswith(PIN_PREFIX) else b""
    if len(digest) != _DIGEST_BYTES:
        raise InvalidInput(
            f"`{pin[:80]}` is not a pin", hint=f"a pin begins with {PIN_PREFIX} and 43 characters follow"
        )
    return digest


def _code_body(pasted: str) -> str:
    """Extract the base64 part of a pasted code."""
    text = _NOISE.sub("", pasted.translate(_DASHES))
    prefix = _PREFIX.search(text)
    if prefix is None:
        raise InvalidInput("this is not a join code; join codes start with anv1-", hint=_MAKE)
    if prefix[1] != _VERSION:
        raise InvalidInput(
            f"this join code has another version (anv{prefix[1][:9]}-)",
            hint="update anvyl-mcp on both hosts, then make a new code: anvyl-mcp invite",
        )
    return text[prefix.end() :]


def _checked_content(body: str) -> bytes:
    """Decode the base64, check the checksum and strip it."""
    raw = _from_base64(body)
    content, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    if len(content) <= _DIGEST_BYTES + SECRET_BYTES or check != _checksum(content):
        raise _damaged_code()
    return content


def _damaged_code() -> InvalidInput:
    return InvalidInput("this join code is damaged", hint=_AGAIN)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(b"anvyl join code 1" + content).digest()[:_CHECK_BYTES]


def _to_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _from_base64(text: str) -> bytes:
    """Decode the output of `_to_base64`. Any other text gives empty bytes, so that each value has one spelling."""
    if not _BODY.fullmatch(text):
        return b""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return b""
    return data if _to_base64(data) == text else b""


def _pack_address(address: str) -> bytes:
    """Encode an address: a byte for its kind, the length of a name, the address, the port."""
    host, colon, port = address.lower().rpartition(":")
    # int() alone would accept spaces, signs and digits of other scripts.
    if not colon or not re.fullmatch(r"[1-9][0-9]{0,4}", port, re.ASCII) or int(port) > 65535:
        raise _bad_address(address)
    number = int(port).to_bytes(2, "big")
    try:
        if host.startswith("[") and host.endswith("]") and "%" not in host:
            return bytes([_IPV6]) + ipaddress.IPv6Address(host[1:-1]).packed + number
        if re.fullmatch(r"[0-9.]+", host, re.ASCII):
            return bytes([_IPV4]) + ipaddress.IPv4Address(host).packed + number
    except ValueError as error:
        raise _bad_address(address) from error
    if not _HOST.fullmatch(host):
        raise _bad_address(address)
    return bytes([_NAME, len(host)]) + host.encode("ascii") + number


def _unpack_address(data: bytes) -> tuple[str, bytes]:
    """Decode the first address of `data`; return it and the remaining bytes."""
    kind, start = data[0], 1
    size = {_IPV4: 4, _IPV6: 16}.get(kind, 0)
    if kind == _NAME and len(data) > 1:
        size, start = data[1], 2
    host, end = data[start : start + size], start + size + 2
    port = int.from_bytes(data[end - 2 : end], "big")
    if not size or len(data) < end or not port:
        raise _damaged_code()
    if kind == _IPV4:
        return f"{ipaddress.IPv4Address(host)}:{port}", data[end:]
    if kind == _IPV6:
        return f"[{ipaddress.IPv6Address(host)}]:{port}", data[end:]
    name = host.decode("ascii", "replace")
    if not _HOST.fullmatch(name) or re.fullmatch(r"[0-9.]+", name, re.ASCII):
        raise _damaged_code()
    return f"{name}:{port}", data[end:]


def _bad_address(address: str) -> InvalidInput:
    return InvalidInput(
        f"`{address}` cannot be in a join code", hint="write addresses like 192.168.1.5:4200 or nas.lan:4200"
    )
