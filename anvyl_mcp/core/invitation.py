"""The join code: one line that tells another machine where this host is, how to know it, and a secret for one use."""

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
"""How the text of a pin begins; base64url without padding of 32 bytes follows."""

_VERSION = "1"
_DIGEST_BYTES = 32
_CHECK_BYTES = 4
_IPV4, _IPV6, _NAME = 4, 6, 0
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?", re.ASCII)
_PREFIX = re.compile(r"anv([0-9]+)-", re.ASCII | re.IGNORECASE)
_BODY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
# What is around a code, or between its lines, when it comes from a terminal, a mail or a chat.
_NOISE = re.compile("[\\s\"'`´‘’‚“”„«»<>()\\[\\].,;:\u00ad\u200b-\u200f\u2060\ufeff]+")
_DASHES = str.maketrans({"‐": "-", "‑": "-", "‒": "-", "–": "-", "−": "-", "—": "--"})
_AGAIN = "copy the whole line again; it begins with anv1-"
_MAKE = "on the other host: anvyl-mcp invite"


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a join code says: `host:port` addresses, the host's pin, and a secret that is good once.

    The secret is 128 bits in the letters of URL-safe base64, 22 of them.
    """

    addresses: tuple[str, ...]
    pin: str
    secret: str = field(repr=False)

    def encode(self) -> str:
        """The code, `anv1-…`.

        Raises:
            InvalidInput: there are no addresses or too many, or a part cannot be in a code.
        """
        if not 1 <= len(self.addresses) <= MAX_ADDRESSES:
            raise InvalidInput(f"a join code holds 1 to {MAX_ADDRESSES} addresses, not {len(self.addresses)}")
        secret = _from_base64(self.secret)
        if len(secret) != SECRET_BYTES:
            raise InvalidInput("the secret of a join code is 22 characters of base64")
        content = pin_digest(self.pin) + secret + b"".join(_pack_address(address) for address in self.addresses)
        return f"anv{_VERSION}-{_to_base64(content + _checksum(content))}"

    @classmethod
    def decode(cls, text: str) -> Invitation:
        """What a code says, however it was pasted.

        Raises:
            InvalidInput: it is no code, or not as it was written.
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
    """The one spelling of a pin, of the SHA-256 of a public key."""
    return PIN_PREFIX + _to_base64(digest)


def pin_digest(pin: str) -> bytes:
    """The SHA-256 that a pin spells.

    Raises:
        InvalidInput: it is no pin.
    """
    digest = _from_base64(pin.removeprefix(PIN_PREFIX)) if pin.startswith(PIN_PREFIX) else b""
    if len(digest) != _DIGEST_BYTES:
        raise InvalidInput(
            f"`{pin[:80]}` is not a pin", hint=f"a pin begins with {PIN_PREFIX} and 43 characters follow"
        )
    return digest


def _code_body(pasted: str) -> str:
    """The part of a pasted text that stands for the content."""
    text = _NOISE.sub("", pasted.translate(_DASHES))
    prefix = _PREFIX.search(text)
    if prefix is None:
        raise InvalidInput("this is not a join code: one begins with anv1-", hint=_MAKE)
    if prefix[1] != _VERSION:
        raise InvalidInput(
            f"this join code is of another version (anv{prefix[1][:9]}-)",
            hint="update anvyl-mcp on both hosts, then make a new code: anvyl-mcp invite",
        )
    return text[prefix.end() :]


def _checked_content(body: str) -> bytes:
    """What the code holds, its checksum seen to be right and taken off."""
    raw = _from_base64(body)
    content, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    if len(content) <= _DIGEST_BYTES + SECRET_BYTES or check != _checksum(content):
        raise _damaged_code()
    return content


def _damaged_code() -> InvalidInput:
    return InvalidInput("this join code is damaged: it is not as it was written", hint=_AGAIN)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(b"anvyl join code 1" + content).digest()[:_CHECK_BYTES]


def _to_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _from_base64(text: str) -> bytes:
    """What `_text` made; nothing for any other text, so that no two texts mean the same."""
    if not _BODY.fullmatch(text):
        return b""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return b""
    return data if _to_base64(data) == text else b""


def _pack_address(address: str) -> bytes:
    """An address in a code: its kind or the length of its name, the address, the port."""
    host, colon, port = address.lower().rpartition(":")
    # Not int(): it takes spaces, signs and digits of other scripts.
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
    """The first address of `data` and what follows it."""
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
