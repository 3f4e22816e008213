"""Hand a join token from a manager to one host, so that nothing between them can read it.

The joining host makes a key for one use and shows its public half. The manager encrypts the token to that key; what
travels over the operator's machine, and what journals and logs may keep, is of no use to others. A token is worth a
place in the cluster, so every step needs the right `exec`: who has that on a manager may read the token anyway.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import time
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from anvyl_mcp.core.errors import Gone, InvalidInput
from anvyl_mcp.server.tool import Injected

PURPOSE = b"anvyl swarm join 1"
VALID_SECONDS = 300
MOST_KEYS = 8
NONCE_BYTES = 12
KEY_BYTES = 32


@dataclass(frozen=True)
class JoinSecret:
    """What a host needs to join: the token, and the addresses of managers."""

    token: str
    managers: tuple[str, ...]

    def __repr__(self) -> str:
        """Without the token, so that no log or traceback has it."""
        return f"JoinSecret(managers={self.managers})"


class JoinKeys(Injected):
    """The keys of joins that this host has announced; each is used once, within five minutes."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[float, X25519PrivateKey]] = {}

    def announce(self) -> str:
        """Make a key and return its public half."""
        key = X25519PrivateKey.generate()
        public = _encode(key.public_key().public_bytes_raw())
        self._keys = dict(list(self._fresh().items())[-MOST_KEYS + 1 :]) | {public: (time.monotonic(), key)}
        return public

    def open(self, public: str, sealed: str) -> JoinSecret:
        """Decrypt a token that was sealed for one of the keys, and forget the key.

        Raises:
            Gone: there is no such key, or not any more.
            InvalidInput: it was sealed for another key, or changed on the way.
        """
        self._keys = self._fresh()
        _, key = self._keys.pop(public, (0.0, None))
        if key is None:
            raise Gone("this host did not announce that it would join, or too long ago", hint="start again")
        box = _decode(sealed)
        theirs, nonce, body = box[:KEY_BYTES], box[KEY_BYTES : KEY_BYTES + NONCE_BYTES], box[KEY_BYTES + NONCE_BYTES :]
        try:
            shared = key.exchange(X25519PublicKey.from_public_bytes(theirs))
            plain = ChaCha20Poly1305(_derive(shared, theirs, _decode(public))).decrypt(nonce, body, PURPOSE)
        except (InvalidTag, ValueError) as error:
            raise InvalidInput("the join token cannot be decrypted; it is not for this host") from error
        fields = json.loads(plain)
        return JoinSecret(fields["token"], tuple(fields["managers"]))

    def _fresh(self) -> dict[str, tuple[float, X25519PrivateKey]]:
        oldest = time.monotonic() - VALID_SECONDS
        return {public: entry for public, entry in self._keys.items() if entry[0] > oldest}


def seal(secret: JoinSecret, public: str) -> str:
    """Encrypt a token for the host that announced this key.

    Raises:
        InvalidInput: it is not a key.
    """
    theirs = _decode(public)
    key = X25519PrivateKey.generate()
    ours = key.public_key().public_bytes_raw()
    try:
        shared = key.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError as error:
        raise InvalidInput("that is not the public key of a join") from error
    nonce = os.urandom(NONCE_BYTES)
    plain = json.dumps({"token": secret.token, "managers": secret.managers}).encode()
    return _encode(ours + nonce + ChaCha20Poly1305(_derive(shared, ours, theirs)).encrypt(nonce, plain, PURPOSE))


def _derive(shared: bytes, sender: bytes, receiver: bytes) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=sender + receiver, info=PURPOSE).derive(shared)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii")


def _decode(encoded: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(encoded.encode("ascii"))
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("that is not a key or a sealed token of a join") from error
