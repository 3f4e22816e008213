"""A TLS server with any key that records what it receives, and unusual certificates."""

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
class TlsRecorder:
    """Completed handshakes of a server, failed ones, and the bytes received after them."""

    port: int
    handshakes: int = 0
    failures: int = 0
    data: bytearray = field(default_factory=bytearray)
    done: threading.Event = field(default_factory=threading.Event)


@contextmanager
def record_tls(context: ssl.SSLContext) -> Iterator[TlsRecorder]:
    """Accept connections on 127.0.0.1 one at a time and read each until the client closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        recorder = TlsRecorder(listener.getsockname()[1])
        thread = threading.Thread(target=_take, args=(listener, context, recorder))
        thread.start()
        try:
            yield recorder
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _take(listener: socket.socket, context: ssl.SSLContext, recorder: TlsRecorder) -> None:
    while True:
        try:
            accepted, _ = listener.accept()
        except OSError:
            return
        with accepted:
            accepted.settimeout(5)
            try:
                with context.wrap_socket(accepted, server_side=True) as secure:
                    recorder.handshakes += 1
                    while part := secure.recv(65536):
                        recorder.data += part
            except OSError:
                recorder.failures += 1
        recorder.done.set()


def certificate_of(key: Key, *, years: int = 1, names: int = 1) -> x509.Certificate:
    """Self-signed certificate that expires in `years` years; a negative number makes an expired one."""
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
    """Write a certificate and its key; returns their paths."""
    files = folder / "certificate.pem", folder / "key.pem"
    encoding, layout = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files[0].write_bytes(certificate.public_bytes(encoding))
    files[1].write_bytes(key.private_bytes(encoding, layout, serialization.NoEncryption()))
    files[1].chmod(0o600)
    return files


def server_context(files: tuple[Path, Path]) -> ssl.SSLContext:
    """Plain server context, without the settings of Anvyl."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context


def spki(key: Key) -> bytes:
    """Public key as DER SubjectPublicKeyInfo."""
    layout = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, layout)
