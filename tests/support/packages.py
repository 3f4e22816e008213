"""Wheel and sdist of this clone, built once."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import OUTSIDE

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class BuiltPackages:
    """The folder with both files."""

    folder: Path

    @property
    def wheel(self) -> Path:
        """The wheel."""
        [found] = self.folder.glob("*.whl")
        return found

    @property
    def sdist(self) -> Path:
        """The source distribution."""
        [found] = self.folder.glob("*.tar.gz")
        return found


def uv() -> str:
    """Return the path of uv, or skip the test."""
    found = shutil.which("uv") or shutil.which("uv", path=sysconfig.get_path("scripts"))
    if not found:
        pytest.skip("uv is not installed")
    return found


def build_packages(folder: Path) -> BuiltPackages:
    """Build wheel and sdist with uv, which fetches the build backend."""
    done = subprocess.run(
        [uv(), "build", "--quiet", "--out-dir", folder, ROOT],
        env=OUTSIDE,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return BuiltPackages(folder)
