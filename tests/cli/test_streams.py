"""Standard streams of every encoding: a letter that cannot be written ends no command."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from tests.support.hosts.nodes import ANVYL, ANVYL_MCP, NO_MODEL, run_program, write_hosts_file
from tests.support.terminal import open_terminal

LETTERS = "ça va\u2026 数"


@pytest.mark.parametrize("encoding", ["ascii:strict", "latin-1", "cp500", "utf-16"])
def test_no_command_fails_over_a_letter(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)

    done = subprocess.run([ANVYL, "info", "--host", LETTERS], capture_output=True, check=False)

    told = done.stderr.decode(encoding.partition(":")[0])
    assert done.returncode == 2
    assert told.startswith("error: ") and "a va" in told and "Traceback" not in told


def test_a_document_loses_nothing_in_ascii() -> None:
    done = run_program("ask", f"how is {LETTERS}?", "--json", PYTHONIOENCODING="ascii", ANVYL_LMSTUDIO_URL=NO_MODEL)

    assert done.out.isascii()
    assert json.loads(done.out)["question"] == f"how is {LETTERS}?"


def test_bars_and_cut_words_are_drawn_in_plain_letters(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
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


def test_a_program_that_is_ended_leaves_the_echo_on(silent_port: int) -> None:
    write_hosts_file("slow", f"http://127.0.0.1:{silent_port}")

    with open_terminal("ps", "--host", "slow") as terminal:
        terminal.until("waiting for slow")
        assert not terminal.echoes
        terminal.process.terminate()
        assert terminal.end() == -signal.SIGTERM
        assert terminal.echoes


def test_keys_typed_ahead_leave_no_line_of_progress_behind(silent_port: int) -> None:
    """An Enter typed while a line is drawn over does not move the cursor away from it; the echo comes back."""
    write_hosts_file("slow", f"http://127.0.0.1:{silent_port}")

    with open_terminal("ps", "--host", "slow") as terminal:
        terminal.until("waiting for slow")
        terminal.type("\r\rls\r")
        assert terminal.end() == 1
        assert terminal.echoes

    after = terminal.shown[terminal.shown.index("waiting for slow") :]
    assert "ls" not in after and "\r\n\r\n" not in after
