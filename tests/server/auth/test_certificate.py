"""A host's key: created once, protected, never replaced silently."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from anvyl_mcp.core.errors import ConfigInvalid
from anvyl_mcp.server.auth.certificate import Identity, host_identity, pin_of
from tests.support.hosts.nodes import PYTHON
from tests.support.hosts.tls_server import certificate_of, write_pair


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "identity"


def certificate_in(identity: Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.certificate.read_bytes())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_first_start_creates_a_key_and_a_ten_year_certificate(folder: Path) -> None:
    identity = host_identity(folder)

    made = certificate_in(identity)
    key = made.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "anvyl" in names.get_values_for_type(x509.DNSName)
    assert os.uname().nodename.lower() in names.get_values_for_type(x509.DNSName)
    assert (made.not_valid_after_utc - made.not_valid_before_utc).days in range(3650, 3653)
    made.verify_directly_issued_by(made)


def test_files_are_accessible_to_the_owner_only_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        identity = host_identity(folder)
    finally:
        os.umask(before)

    assert (mode(folder), mode(identity.key), mode(identity.certificate)) == (0o700, 0o600, 0o600)
    assert sorted(path.name for path in folder.iterdir()) == ["certificate.pem", "key.pem"]


def test_a_folder_that_others_may_enter_is_closed_to_them(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    host_identity(folder)
    assert mode(folder) == 0o700


def test_later_starts_use_the_same_key(folder: Path) -> None:
    first = host_identity(folder)
    assert host_identity(folder) == first
    assert first.pin == pin_of(ssl.PEM_cert_to_DER_cert(first.certificate.read_text(encoding="ascii")))
    assert host_identity(folder.parent / "other").pin != first.pin


def test_starts_at_the_same_time_agree_on_one_key(folder: Path) -> None:
    code = "import sys; from pathlib import Path; from anvyl_mcp.server.auth.certificate import host_identity\n"
    code += "sys.stdin.read(); print(host_identity(Path(sys.argv[1])).pin)"
    starts = [
        subprocess.Popen(
            [PYTHON, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="ascii"
        )
        for _ in range(4)
    ]
    for start in starts:
        assert start.stdin is not None
        start.stdin.close()
    pins = set()
    for start in starts:
        assert start.stdout is not None
        pins.add(start.stdout.read().strip())
        start.stdout.close()
        assert start.wait(30) == 0
    assert pins == {host_identity(folder).pin}


def test_a_start_that_crashed_between_the_two_files_is_finished_with_the_same_key(folder: Path) -> None:
    first = host_identity(folder)
    first.certificate.unlink()
    assert host_identity(folder).pin == first.pin


def test_an_expired_certificate_is_kept_because_only_the_key_matters(folder: Path) -> None:
    folder.mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP256R1())
    write_pair(folder, key, certificate_of(key, years=-2))
    before = (folder / "certificate.pem").read_bytes()
    host_identity(folder)
    assert (folder / "certificate.pem").read_bytes() == before


def other_kind() -> bytes:
    encoding, layout = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return rsa.generate_private_key(65537, 2048).private_bytes(encoding, layout, serialization.NoEncryption())


def locked_away() -> bytes:
    encoding, layout = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        encoding, layout, serialization.BestAvailableEncryption(b"x")
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("key.pem", b"", "key.pem is damaged"),
        ("key.pem", b"\xff\x00", "key.pem is damaged"),
        ("key.pem", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "key.pem is damaged"),
        ("key.pem", locked_away(), "key.pem is damaged"),
        ("key.pem", other_kind(), "key.pem is not an elliptic-curve key"),
        ("certificate.pem", b"", "certificate.pem is damaged"),
        ("certificate.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is damaged"),
    ],
    ids=["empty key", "noise", "no key", "encrypted key", "rsa key", "empty certificate", "no certificate"],
)
def test_a_damaged_file_stops_the_start_and_is_not_changed(folder: Path, name: str, content: bytes, words: str) -> None:
    host_identity(folder)
    (folder / name).write_bytes(content)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(ConfigInvalid, match=words) as refused:
        host_identity(folder)

    assert "it was not changed" in refused.value.message
    assert "pair again" in refused.value.hint
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_truncated_file_is_never_replaced_by_a_new_key(folder: Path) -> None:
    content = host_identity(folder).key.read_bytes()
    for length in range(0, len(content) - 2, 7):
        (folder / "key.pem").write_bytes(content[:length])
        with pytest.raises(ConfigInvalid):
            host_identity(folder)


def test_a_certificate_without_its_key_is_an_error(folder: Path) -> None:
    host_identity(folder).key.unlink()
    with pytest.raises(ConfigInvalid, match=r"key\.pem is missing"):
        host_identity(folder)


def test_a_key_that_is_a_broken_link_is_an_error(folder: Path) -> None:
    identity = host_identity(folder)
    identity.certificate.unlink()
    identity.key.unlink()
    identity.key.symlink_to("/nonexistent/key.pem")
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        host_identity(folder)


def test_a_certificate_of_another_key_is_refused(folder: Path) -> None:
    identity = host_identity(folder)
    other = host_identity(folder.parent / "other")
    shutil.copy(other.certificate, identity.certificate)
    with pytest.raises(ConfigInvalid, match="does not belong to key"):
        host_identity(folder)


def test_a_key_that_others_can_read_is_refused_with_the_command_that_fixes_it(folder: Path) -> None:
    identity = host_identity(folder)
    identity.key.chmod(0o640)
    with pytest.raises(ConfigInvalid, match="other users can read") as refused:
        host_identity(folder)
    assert f"chmod 600 {identity.key}" in refused.value.hint


def test_an_unreadable_file_is_reported(folder: Path) -> None:
    identity = host_identity(folder)
    identity.key.unlink()
    identity.key.mkdir(mode=0o700)
    with pytest.raises(ConfigInvalid, match="cannot be read: Is a directory"):
        host_identity(folder)


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("", encoding="utf-8")
    with pytest.raises(ConfigInvalid, match="cannot be written"):
        host_identity(tmp_path / "state" / "identity")


def test_a_full_disk_is_reported_and_leaves_no_partial_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ConfigInvalid, match="cannot be written: No space left"):
            host_identity(folder)
    assert list(folder.iterdir()) == []
    assert host_identity(folder).pin


def test_only_tls_1_3_is_served(folder: Path) -> None:
    context = host_identity(folder).tls()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3


def test_a_key_replaced_meanwhile_is_detected_when_served(folder: Path) -> None:
    identity = host_identity(folder)
    identity.key.write_bytes(locked_away())
    with pytest.raises(ConfigInvalid, match="cannot be used"):
        identity.tls()


def test_invalid_certificates_have_no_pin() -> None:
    with pytest.raises(ValueError, match="asn1"):
        pin_of(b"")
