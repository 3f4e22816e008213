"""Pinned npm programs for tests, installed in a cache folder outside the project."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CONFORMANCE = "@modelcontextprotocol/conformance"
INSPECTOR = "@modelcontextprotocol/inspector"
PACKAGES = ("node@22.23.3", f"{CONFORMANCE}@0.2.0-alpha.12", f"{INSPECTOR}@2.12.0")
"""Node is included because both tools need a newer version than most machines have."""
INSTALL_SECONDS = 300
SETTINGS = ("--no-audit", "--no-fund", "--loglevel=error")
PROJECT = {"private": True, "allowScripts": {"node": True, INSPECTOR: True}}
"""The package `node` fetches the program in a script, which newer versions of npm run only if it is allowed."""


def programs_folder() -> Path:
    """Folder with the programs; installs them if necessary, which takes half a minute."""
    found = _find_or_install()
    if isinstance(found, Path):
        return found
    pytest.skip(f"MCP CONFORMANCE AND THE INSPECTOR WERE NOT TESTED: {found}")


@functools.cache
def _find_or_install() -> Path | str:
    """Folder with the programs, or the reason why they are not available."""
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed; install nodejs and npm"
    name = hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:12]
    folder = cache_folder() / f"npm-{name}"
    programs = folder / "node_modules" / ".bin"
    with (cache_folder() / f"npm-{name}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        trouble = "" if programs.is_dir() else _install(npm, folder)
    return trouble or programs


def run(program: str, *arguments: str, home: Path, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run one of the programs with the installed Node and its own home."""
    programs = programs_folder()
    return subprocess.run(
        [programs / program, *arguments],
        env={"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(home), "NO_COLOR": "1"},
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=seconds,
        check=False,
    )


def cache_folder() -> Path:
    """Folder outside the project in which downloads are kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (base / "anvyl-tests", Path(tempfile.gettempdir()) / f"anvyl-tests-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise OSError("there is no folder to keep npm's packages in")


def _install(npm: str, folder: Path) -> str:
    """Install into a temporary folder first, so that a partial installation is never used; returns the error or ""."""
    partial = folder.with_suffix(".new")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    (partial / "package.json").write_text(json.dumps(PROJECT), encoding="utf-8")
    command = [npm, "install", "--prefix", str(partial), *SETTINGS, *PACKAGES]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            timeout=INSTALL_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"npm needed more than {INSTALL_SECONDS} s to install {', '.join(PACKAGES)}"
    if done.returncode:
        return f"npm could not install {', '.join(PACKAGES)}: {done.stderr[-500:]}"
    partial.rename(folder)
    return ""
