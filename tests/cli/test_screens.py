"""Terminal output around results: host names, notes, errors and live tables."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from anvyl_mcp.core.text import ANSI
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import NO_MODEL, anvyl, write_hosts_file
from tests.support.terminal import open_terminal


def test_the_note_on_the_missing_model_is_shown_once_a_day(tmp_path: Path) -> None:
    def ask(*options: str, url: str = NO_MODEL) -> bool:
        done = anvyl("ask", "list hosts", *options, ANVYL_LMSTUDIO_URL=url, ANVYL_RULES="fallback")
        assert done.code == 0, done.err
        return "no language model" in done.err + done.out

    assert ask()
    assert not ask()
    # Programs get it every time; a new reason is shown at once, and the same one again the next day.
    assert ask("--json")
    assert ask(url="http://127.0.0.1:2/v1")
    yesterday = time.time() - 86400
    os.utime(tmp_path / "model_note", (yesterday, yesterday))
    assert ask(url="http://127.0.0.1:2/v1")


def test_undo_names_the_host_that_does_not_answer(free_port: int) -> None:
    write_hosts_file("gpu", f"http://127.0.0.1:{free_port}")

    assert "error: gpu: connection refused" in anvyl("undo", "--host", "gpu").err


def test_a_host_name_is_printed_once(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hosts_file("gpu", f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("ANVYL_NAME", os.uname().nodename.lower())

    first, *rest = anvyl("info").out.splitlines()

    assert first.startswith(f"{os.uname().nodename}: ") and "memory" in first
    assert all(line.startswith("  ") for line in rest)


@pytest.mark.parametrize(("columns", "colour"), [(60, "1"), (80, "")], ids=["60 without colours", "80"])
def test_live_tables_fit_a_narrow_terminal(
    columns: int, colour: str, engine: RealEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line wraps, so no earlier frame remains; names, states and numbers are complete."""
    engine.run("nextcloud-app-1")
    monkeypatch.setenv("NO_COLOR", colour)
    size = (columns, 24)

    with open_terminal("stats", "--watch", size=size) as watching:
        watching.until("nextcloud-app-1")
        watching.until("nextcloud-app-1")
        watching.type("\x03")
        watching.end()
    with open_terminal("ps", "--host", "local", size=size) as listed:
        assert listed.end() == 0
    with open_terminal("resources", "--host", "local", size=size) as busy:
        assert busy.end() == 0

    for shown in (watching.shown, listed.shown, busy.shown):
        lines = ANSI.sub("", shown).splitlines()
        assert max(map(len, lines)) <= columns, lines
    row = next(line for line in listed.shown.splitlines() if "nextcloud-app-1" in line)
    assert ANSI.sub("", row).split()[2] == "up"
    assert ("\x1b[3" in listed.shown) is not bool(colour)
    assert " %" in busy.shown
