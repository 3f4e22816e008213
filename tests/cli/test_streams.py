"""Standard streams with any encoding: a character that cannot be encoded does not fail a command."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from tests.support.hosts.nodes import ANVYL, ANVYL_MCP, NO_MODEL, run_program, write_hosts_file
from tests.support.terminal import open_terminal

LETTERS = "ça va\u2026 数"


@pytest.mark.parametrize("encoding", ["ascii:strict", "latin-1", "cp500", "utf-16"])
def test_commands_work_with_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)

    done = subprocess.run([ANVYL, "info", "--host", LETTERS], capture_output=True, check=False)

    error = done.stderr.decode(encoding.partition(":")[0])
    assert done.returncode == 2
    assert error.startswith("error: ") and "a va" in error and "Traceback" not in error


def test_json_keeps_every_character_in_ascii() -> None:
    done = run_program("ask", f"how is {LETTERS}?", "--json", PYTHONIOENCODING="ascii", ANVYL_LMSTUDIO_URL=NO_MODEL)

    assert done.out.isascii()
    assert json.loads(done.out)["question"] == f"how is {LETTERS}?"


def test_bars_and_ellipses_have_ascii_replacements(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    write_hosts_file("gpu", f"http://127.0.0.1:{free_port}")

    with open_terminal("resources", "--host", "local", size=(100, 24)) as bars:
        assert bars.end() == 0
    with open_terminal("tools", size=(80, 24)) as cut:
        assert cut.end() == 0
    helped = run_program("--help", program=ANVYL_MCP, PYTHONIOENCODING="ascii")

    assert "##" in bars.shown or ".." in bars.shown
    assert "~" in cut.shown
    assert helped.code == 0
    assert (bars.shown + cut.shown).replace("\x1b", "").isascii()


def test_sigterm_restores_the_echo(silent_port: int) -> None:
    write_hosts_file("slow", f"http://127.0.0.1:{silent_port}")

    with open_terminal("ps", "--host", "slow") as terminal:
        terminal.until("waiting for slow")
        assert not terminal.echoes
        terminal.process.terminate()
        assert terminal.end() == -signal.SIGTERM
        assert terminal.echoes


def test_keys_typed_during_progress_do_not_break_the_display(silent_port: int) -> None:
    """An Enter during a redraw does not move the cursor off the line, and the echo is restored."""
    write_hosts_file("slow", f"http://127.0.0.1:{silent_port}")

    with open_terminal("ps", "--host", "slow") as terminal:
        terminal.until("waiting for slow")
        terminal.type("\r\rls\r")
        assert terminal.end() == 1
        assert terminal.echoes

    after = terminal.shown[terminal.shown.index("waiting for slow") :]
    assert "ls" not in after and "\r\n\r\n" not in after
