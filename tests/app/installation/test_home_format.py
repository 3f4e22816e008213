"""A home of an older version is copied before it is changed."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from anvyl_mcp.app.installation import home_format
from anvyl_mcp.app.installation.home_format import FORMAT, prepare_home, read_format
from anvyl_mcp.core.errors import AnvylError, ConfigInvalid


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of the first format, in a folder that other programs use too."""
    for name in ("trust/key.pem", "operations/operations.log", "hosts.toml", "cache/tools.json", "photos/cat.json"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(name, encoding="utf-8")
    (tmp_path / "notes.txt").touch()
    return tmp_path


def names(archive: Path) -> set[str]:
    with tarfile.open(archive) as tar:
        return set(tar.getnames())


def test_the_copy_holds_our_files_and_no_others(home: Path) -> None:
    copy = prepare_home(home, home)

    assert copy is not None
    assert names(copy) == {"state/trust/key.pem", "state/operations/operations.log", "state/hosts.toml"}
    assert copy.stat().st_mode & 0o777 == 0o600
    assert read_format(home) == FORMAT
    assert prepare_home(home, home) is None


def test_configuration_and_state_may_be_in_different_folders(home: Path, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "config.toml").touch()

    copy = prepare_home(config, home)

    assert copy is not None
    assert "config/config.toml" in names(copy)


def test_a_new_home_is_not_copied(tmp_path: Path) -> None:
    assert prepare_home(tmp_path, tmp_path) is None
    assert read_format(tmp_path) == FORMAT
    assert not (tmp_path / "backups").exists()


def test_a_home_of_a_newer_version_is_not_touched(home: Path) -> None:
    (home / "format").write_text(f"{FORMAT + 1}\n", encoding="utf-8")

    with pytest.raises(ConfigInvalid, match="was used by a newer version"):
        prepare_home(home, home)


def test_a_home_that_cannot_be_copied_is_not_changed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "add", full)

    with pytest.raises(AnvylError, match="No space left"):
        prepare_home(home, home)
    assert read_format(home) == 1
    assert list((home / "backups").iterdir()) == []


def test_three_copies_are_kept(home: Path) -> None:
    (home / "backups").mkdir()
    for age in range(5):
        old = home / "backups" / f"format-1-2020010{age}T000000.tar.gz"
        old.touch()
        os.utime(old, (age, age))

    prepare_home(home, home)

    assert len(list((home / "backups").iterdir())) == home_format.KEPT_BACKUPS
