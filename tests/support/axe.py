"""axe-core, the checker of accessibility, from npm: downloaded once into the cache of the tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.support.conformance.npm import cache_folder

PACKAGE = "axe-core@4.14.1"
SECONDS = 60
SERIOUS = ("serious", "critical")


def axe_source() -> str:
    """The checker as a script; skips the test where it cannot be downloaded."""
    kept = cache_folder() / f"{PACKAGE}.js"
    if not kept.exists():
        _download(kept)
    return kept.read_text(encoding="utf-8")


def _download(kept: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("ACCESSIBILITY WAS NOT CHECKED WITH AXE: npm is not installed")
    folder = kept.parent / "axe.new"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
    try:
        subprocess.run(command, cwd=folder, timeout=SECONDS, check=True, capture_output=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        pytest.skip(f"ACCESSIBILITY WAS NOT CHECKED WITH AXE: npm could not download {PACKAGE}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        partial = folder / "axe.js"
        partial.write_bytes(script.read())
    partial.replace(kept)
    shutil.rmtree(folder, ignore_errors=True)


def serious_findings(page: Page, axe: str) -> list[str]:
    """What axe finds on a page, one line for each rule and element."""
    page.evaluate(axe)
    found = json.loads(page.evaluate("axe.run().then((result) => JSON.stringify(result.violations))"))
    return [
        f"{one['id']}: {one['help']}: {node['target']} {node['html'][:160]} {node.get('failureSummary', '')}"
        for one in found
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]
