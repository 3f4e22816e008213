"""The command that adds an extra, for each way in which Anvyl is installed."""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from pathlib import Path

import pytest

from anvyl_mcp.core import extras

METADATA = """\
Metadata-Version: 2.4
Name: anvyl-mcp
Version: 0.1.0
Provides-Extra: keyring
Provides-Extra: notify
Requires-Dist: keyring<26,>=25; extra == 'keyring'
Requires-Dist: apprise<3,>=2.3; extra == 'notify'
"""


class Installed(metadata.Distribution):
    """An installation with one extra, from an index or a clone."""

    def __init__(self, direct_url: str) -> None:
        self._files = {"METADATA": METADATA, "direct_url.json": direct_url}

    def read_text(self, filename: str) -> str | None:
        return self._files.get(filename)

    def locate_file(self, path: object) -> Path:
        return Path(str(path))


@pytest.mark.parametrize(
    ("sign", "direct_url", "command"),
    [
        ("pipx_metadata.json", "", "pipx install --force 'anvyl-mcp[keyring,notify]'"),
        (
            "pipx_metadata.json",
            '{"url": "file:///srv/my%20clone", "dir_info": {}}',
            "pipx install --force '/srv/my clone[keyring,notify]'",
        ),
        ("uv-receipt.toml", "", "uv tool install 'anvyl-mcp[keyring,notify]'"),
        (
            "uv-receipt.toml",
            '{"url": "https://x.org/a.git", "vcs_info": {"vcs": "git"}}',
            "uv tool install 'anvyl-mcp[keyring,notify] @ git+https://x.org/a.git'",
        ),
        ("pip", "", "{python} -m pip install 'anvyl-mcp[notify]'"),
        ("no pip", "", "uv pip install --python {python} 'anvyl-mcp[notify]'"),
    ],
)
def test_an_extra_is_added_with_the_tool_that_made_the_installation_and_the_others_are_kept(
    sign: str, direct_url: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / sign).touch()
    pip = importlib.util.find_spec("json") if sign == "pip" else None
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: pip)
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(direct_url))
    monkeypatch.setattr(metadata, "distributions", lambda name: [Installed("")] if name == "keyring" else iter(()))

    assert extras.install_command("notify") == command.format(python=sys.executable)
