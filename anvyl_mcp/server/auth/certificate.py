"""What a host is on the network: a key of its own, and a certificate of that key for TLS to carry it in.

Nobody vouches for the certificate; its names and dates mean nothing to our clients, who know the key by its pin.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from anvyl_mcp.core import file_locks
from anvyl_mcp.core.errors import ConfigInvalid
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.core.invitation import pin_text

YEARS = 10
NEXT = "next-key.pem"


@dataclass(frozen=True, slots=True)
class Identity:
    """The files of a host's certificate and key, and the pin by which others know the key."""

    certificate: Path
    key: Path
    pin: str

    def tls(self) -> ssl.SSLContext:
        """How this host serves: TLS 1.3, nothing older."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # Nobody resumes: a ticket would be the first thing written to clients that only look and leave.
        context.num_tickets = 0
        try:
            # A file that was encrypted since must not ask for its password on the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
        except (OSError, ValueError) as error:
            raise _unusable(self.key, self.certificate, "cannot be used") from error
        return context


def host_identity(folder: Path) -> Identity:
    """This host's identity in `folder`, made there when there is none.

    Raises:
        ConfigInvalid: the files are damaged, unreadable or readable by others; they are left as they are.
    """
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    with _locked(folder):
        if _there(certificate) and not _there(key):
            raise _unusable(certificate, key, f"has lost its key {key.name}")
        private = _read_key(key, certificate) if _there(key) else _new_key(key)
        # The key is written first and is all that counts: a crash in between costs nothing.
        if not _there(certificate):
            _write(certificate, _self_signed(private).public_bytes(serialization.Encoding.PEM))
        pin = _pin(private.public_key())
        if _read_pin(certificate, key) != pin:
            raise _unusable(certificate, key, f"does not belong to {key.name}")
    return Identity(certificate, key, pin)


def make_next(folder: Path) -> str:
    """Make the key that this host will have, beside the present one; its pin.

    Raises:
        ConfigInvalid: it cannot be written.
    """
    with _locked(folder):
        return _pin(_new_key(folder / NEXT).public_key())


def put_next_in_place(folder: Path) -> Identity:
    """Make the next key this host's only one.

    Raises:
        ConfigInvalid: the next key is damaged or unreadable; nothing was changed.
    """
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    try:
        with _locked(folder):
            _read_key(folder / NEXT, certificate)
            # Without a certificate a new one is made for whichever key is there: a crash in between costs nothing.
            certificate.unlink(missing_ok=True)
            (folder / NEXT).replace(key)
    except OSError as error:
        raise _not_written(folder, error) from error
    return host_identity(folder)


def drop_next(folder: Path) -> None:
    """Forget the next key."""
    with _locked(folder):
        (folder / NEXT).unlink(missing_ok=True)


def pin_of(certificate_der: bytes) -> str:
    """The pin of the key in a certificate.

    Raises:
        ValueError: it is no certificate.
    """
    return _pin(x509.load_der_x509_certificate(certificate_der).public_key())


def _pin(key: CertificatePublicKeyTypes) -> str:
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pin_text(hashlib.sha256(encoded).digest())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone in a folder that only its owner may enter."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _not_written(folder, error) from error
    try:
        try:
            file_locks.acquire(lock, fcntl.LOCK_EX)
        except TimeoutError as error:
            raise _not_written(folder, error) from error
        yield
    finally:
        os.close(lock)


def _there(file: Path) -> bool:
    """Whether there is something of that name, be it a link into nothing: that is a fault, not a first start."""
    return os.path.lexists(file)


def _new_key(file: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    encoding, layout = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    _write(file, key.private_bytes(encoding, layout, serialization.NoEncryption()))
    return key


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "anvyl")])
    names = dict.fromkeys(["anvyl", *_machine_names()])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


def _machine_names() -> list[str]:
    name = socket.gethostname().lower()
    return [name] if name.isascii() and name.isprintable() and " " not in name and 0 < len(name) < 254 else []


def _read_key(file: Path, certificate: Path) -> ec.EllipticCurvePrivateKey:
    content = _read(file)
    if file.stat().st_mode & 0o077:
        raise ConfigInvalid(
            f"{file} can be read by other users: it is this host's secret key",
            hint=f"if nobody has it: chmod 600 {file}; else move it and {certificate.name} away, and pair again",
        )
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(file, certificate, "is damaged") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unusable(file, certificate, "is a key of another kind")
    return key


def _read_pin(file: Path, key: Path) -> str:
    try:
        return _pin(x509.load_pem_x509_certificate(_read(file)).public_key())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(file, key, "is damaged") from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigInvalid(f"{file} cannot be read: {error.strerror}", hint="check its permissions") from error


def _write(file: Path, content: bytes) -> None:
    try:
        write_atomically(file, content)
    except OSError as error:
        raise _not_written(file.parent, error) from error


def _not_written(folder: Path, error: OSError) -> ConfigInvalid:
    return ConfigInvalid(f"{folder} cannot be written: {error.strerror}", hint="check the disk and its permissions")


def _unusable(file: Path, other: Path, what: str) -> ConfigInvalid:
    return ConfigInvalid(
        f"{file} {what}; it was not changed",
        hint=f"restore it from a backup, or move it and {other.name} away for a new key: hosts must then pair again",
    )
