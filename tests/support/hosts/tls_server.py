"""A TLS server that notes what it is told, with any key; and certificates that no other program would accept."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass
class Heard:
    """What a server heard: whole handshakes, and the bytes that came after them."""

    port: int
    handshakes: int = 0
    failures: int = 0
    data: bytearray = field(default_factory=bytearray)
    done: threading.Event = field(default_factory=threading.Event)


@contextmanager
def listening(context: ssl.SSLContext) -> Iterator[Heard]:
    """Take connections on 127.0.0.1 one by one; each is read until the client hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard = Heard(listener.getsockname()[1])
        thread = threading.Thread(target=_take, args=(listener, context, heard))
        thread.start()
        try:
            yield heard
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _take(listener: socket.socket, context: ssl.SSLContext, heard: Heard) -> None:
    while True:
        try:
            accepted, _ = listener.accept()
        except OSError:
            return
        with accepted:
            accepted.settimeout(5)
            try:
                with context.wrap_socket(accepted, server_side=True) as secure:
                    heard.handshakes += 1
                    while part := secure.recv(65536):
                        heard.data += part
            except OSError:
                heard.failures += 1
        heard.done.set()


def certificate_of(key: Key, *, years: int = 1, names: int = 1) -> x509.Certificate:
    """A self-signed certificate that ends in so many years from now; one that ended has a negative number."""
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"name {number}") for number in range(names)])
    return (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=3650))
        .not_valid_after(now + datetime.timedelta(days=365 * years))
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )


def write_pair(folder: Path, key: Key, certificate: x509.Certificate) -> tuple[Path, Path]:
    """The files of a certificate and its key."""
    files = folder / "certificate.pem", folder / "key.pem"
    encoding, layout = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files[0].write_bytes(certificate.public_bytes(encoding))
    files[1].write_bytes(key.private_bytes(encoding, layout, serialization.NoEncryption()))
    files[1].chmod(0o600)
    return files


def server_context(files: tuple[Path, Path]) -> ssl.SSLContext:
    """A server's context without any rule of ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context


def spki(key: Key) -> bytes:
    """The public key as certificates hold it."""
    layout = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, layout)
