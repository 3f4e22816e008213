"""A host's identity on the network: its key, and a self-signed certificate for TLS.

Clients identify the key by its pin and ignore the names and dates in the certificate.
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
from anvyl_mcp.core.files import make_private_folder, write_atomically
from anvyl_mcp.core.invitation import pin_text

YEARS = 10
NEXT_KEY_FILE = "next-key.pem"


@dataclass(frozen=True, slots=True)
class Identity:
    """The files of a host's certificate and key, and the pin by which others identify the key."""

    certificate: Path
    key: Path
    pin: str

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate, as browsers show it.

        Raises:
            ConfigInvalid: the certificate cannot be read.
        """
        der = ssl.PEM_cert_to_DER_cert(_read(self.certificate).decode("ascii"))
        return hashlib.sha256(der).digest().hex(":").upper()

    def tls(self) -> ssl.SSLContext:
        """Return the server's TLS context: TLS 1.3 only.

        Raises:
            ConfigInvalid: the files cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # No client resumes sessions, and tickets would be written even to clients that only connect and leave.
        context.num_tickets = 0
        try:
            # Without a password OpenSSL would prompt on the terminal for that of an encrypted key.
            context.load_cert_chain(self.certificate, self.key, password="")
        except (OSError, ValueError) as error:
            raise _unusable(self.key, self.certificate, "cannot be used") from error
        return context


def host_identity(folder: Path) -> Identity:
    """Return this host's identity in `folder`, created on first use.

    Raises:
        ConfigInvalid: the files are damaged, unreadable or readable by others; they are not changed.
    """
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    with _lock_folder(folder):
        if _exists(certificate) and not _exists(key):
            raise _unusable(certificate, key, f"has no key: {key.name} is missing")
        private = _read_key(key, certificate) if _exists(key) else _new_key(key)
        # The key is written first; a crash in between only leaves out the certificate, which is made anew.
        if not _exists(certificate):
            _write(certificate, _self_signed(private).public_bytes(serialization.Encoding.PEM))
        pin = _pin(private.public_key())
        if _read_pin(certificate, key) != pin:
            raise _unusable(certificate, key, f"does not belong to {key.name}")
    return Identity(certificate, key, pin)


def make_next_key(folder: Path) -> str:
    """Create the next key next to the current one; return its pin.

    Raises:
        ConfigInvalid: it cannot be written.
    """
    with _lock_folder(folder):
        return _pin(_new_key(folder / NEXT_KEY_FILE).public_key())


def install_next_key(folder: Path) -> Identity:
    """Replace this host's key by the next one.

    Raises:
        ConfigInvalid: the next key is damaged or unreadable; nothing was changed.
    """
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    try:
        with _lock_folder(folder):
            _read_key(folder / NEXT_KEY_FILE, certificate)
            # A missing certificate is recreated for the key that exists, so a crash in between does no harm.
            certificate.unlink(missing_ok=True)
            (folder / NEXT_KEY_FILE).replace(key)
    except OSError as error:
        raise _not_written(folder, error) from error
    return host_identity(folder)


def delete_next_key(folder: Path) -> None:
    """Delete the next key."""
    with _lock_folder(folder):
        (folder / NEXT_KEY_FILE).unlink(missing_ok=True)


def pin_of(certificate_der: bytes) -> str:
    """Return the pin of the key in a certificate.

    Raises:
        ValueError: it is not a certificate.
    """
    return _pin(x509.load_der_x509_certificate(certificate_der).public_key())


def _pin(key: CertificatePublicKeyTypes) -> str:
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pin_text(hashlib.sha256(encoded).digest())


@contextlib.contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder exclusively, creating it with access for its owner only."""
    try:
        make_private_folder(folder)
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


def _exists(file: Path) -> bool:
    """Whether `file` exists; true for a broken link, which is a fault and not a first start."""
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
            f"other users can read {file}, which is this host's secret key",
            hint=f"if it did not leak: chmod 600 {file}; else move it and {certificate.name} away, and pair again",
        )
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(file, certificate, "is damaged") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unusable(file, certificate, "is not an elliptic-curve key")
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


def _unusable(file: Path, other: Path, problem: str) -> ConfigInvalid:
    return ConfigInvalid(
        f"{file} {problem}; it was not changed",
        hint=f"restore it from a backup, or move it and {other.name} away to get a new key: hosts must then pair again",
    )
