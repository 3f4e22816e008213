"""The service on macOS, with a stand-in for `launchctl` that remembers what is loaded."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from anvyl_mcp.app.service import logs, managers, service
from anvyl_mcp.app.service.launchd import Launchd
from anvyl_mcp.core.settings import load

LAUNCHCTL = """#!/bin/sh
echo "$*" >> "$LAUNCHCTL_STATE/calls"
case $1 in
  bootstrap)
    python=$(sed -n '/<array>/,/<.array>/s/.*<string>\\(.*\\)<.string>/\\1/p' "$3")
    $python >"$HOME/Library/Logs/anvyl-mcp.log" 2>&1 &
    echo $! > "$LAUNCHCTL_STATE/pid" ;;
  bootout) kill $(cat "$LAUNCHCTL_STATE/pid"); rm "$LAUNCHCTL_STATE/pid" ;;
  print)
    case $2 in
      */*/*) [ -e "$LAUNCHCTL_STATE/pid" ] || exit 113
        printf '%s = {\\n\\tstate = running\\n\\tpid = %s\\n}\\n' "$2" "$(cat "$LAUNCHCTL_STATE/pid")" ;;
    esac ;;
esac
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What `launchctl` was called with."""
    program = tmp_path / "bin" / "launchctl"
    program.parent.mkdir()
    program.write_text(LAUNCHCTL, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("LAUNCHCTL_STATE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(managers, "managers", lambda: [Launchd()])
    yield tmp_path / "calls"
    if (tmp_path / "pid").exists():
        os.kill(int((tmp_path / "pid").read_text(encoding="ascii")), signal.SIGTERM)


def test_an_agent_is_loaded_described_and_unloaded(calls: Path, free_port: int) -> None:
    settings = load()
    flags: dict[str, str | int | bool | None] = {"name": "mini", "port": free_port, "agent_port": free_port}
    manager = managers.choose_manager(None)

    done = service.install(service.plan(manager, settings, flags), settings)
    found = service.report(managers.installed_manager("user"), settings)
    logged = logs.read_lines(manager, 5, "")
    again = service.install(service.plan(manager, settings, {}), settings)
    home = service.uninstall(manager, settings)

    assert subprocess.run(["grep", "-c", "bootstrap", calls], check=False, capture_output=True).stdout.strip() == b"2"
    assert "it starts when you log in" in done.notes[0]
    assert found.state.running
    assert found.server is not None
    assert (found.server.name, found.server.pid) == ("mini", found.state.pid)
    assert "serving mini at" in logged[-1]
    assert again.updated
    assert not again.changed
    assert home == settings.state_dir
    assert not manager.file.exists()
    assert (home / "run").is_dir()
