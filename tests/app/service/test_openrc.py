"""The service of OpenRC, with stand-ins for its programs; its script was also tried with the real OpenRC 0.45."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from anvyl_mcp.app.service import definition, logs, service
from anvyl_mcp.app.service.openrc import OpenRc
from anvyl_mcp.core.errors import AnvylError, InvalidInput
from anvyl_mcp.core.settings import load

RC_SERVICE = """#!/bin/sh
case $2 in
  restart) cat "$OPENRC_STATE/writes" >> "$OPENRC_STATE/log" ;;
  status) echo " * status: started" ;;
esac
"""


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenRc:
    """A service whose supervisor runs, and whose server writes what is in the file `writes`."""
    programs = {"rc-service": RC_SERVICE, "rc-update": '#!/bin/sh\necho "  anvyl-mcp | default"\n'}
    for name, script in programs.items():
        (tmp_path / name).write_text(script, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("OPENRC_STATE", str(tmp_path))
    monkeypatch.setenv("ANVYL_HOME", str(tmp_path))
    monkeypatch.setattr(service, "START_SECONDS", 0.0)
    made = OpenRc()
    made.file, made.log = tmp_path / "anvyl-mcp", tmp_path / "log"
    made.log.write_text("error: an earlier reason\n", encoding="utf-8")
    return made


@pytest.mark.parametrize(
    ("written", "reason", "hint"),
    [
        ("", "no answer within 0 s", "Its log: anvyl-mcp service logs"),
        (
            "error: port 4200 is in use\nhint:  use --port\n",
            "port 4200 is in use",
            "use --port. Its log: anvyl-mcp service logs",
        ),
    ],
    ids=["nothing", "an error"],
)
def test_a_start_that_fails_gives_the_reason_of_this_start(
    manager: OpenRc, written: str, reason: str, hint: str, tmp_path: Path
) -> None:
    (tmp_path / "writes").write_text(written, encoding="utf-8")

    with pytest.raises(AnvylError, match=f"the service does not start: {reason}") as failure:
        service.restart(manager, load())
    assert failure.value.hint == hint


def test_a_supervisor_whose_server_keeps_ending_does_not_count_as_running(manager: OpenRc) -> None:
    found = service.report(manager, load())
    state = found.state

    assert (state.running, state.word, state.enabled) == (False, "started, but it does not serve", True)
    assert found.notes[0] == "its last error: an earlier reason; its log: anvyl-mcp service logs --system"


async def test_a_log_that_cannot_be_read_is_an_error(manager: OpenRc) -> None:
    manager.log.unlink()

    with pytest.raises(AnvylError, match="the log of the service cannot be read"):
        await logs.show(manager, 5, "", follow=False)


def test_a_program_in_a_closed_home_folder_is_refused_before_anything_is_written(
    manager: OpenRc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user of the service could not enter the folder; only systemd can show it to a service."""
    closed, program = tmp_path / "you", tmp_path / "you" / "venv"
    program.mkdir(parents=True)
    closed.chmod(0o700)
    tmp_path.chmod(0o755)
    for name in ("prefix", "base_prefix"):
        monkeypatch.setattr(sys, name, str(program))
    monkeypatch.setattr(definition, "HIDDEN", (tmp_path,))
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    planned = service.plan(manager, load(), {})
    assert f"{closed} is closed to other users" in "".join(planned.notes)
    with pytest.raises(InvalidInput, match="is closed to other users"):
        service.install(planned, load())
    assert not manager.file.exists()
