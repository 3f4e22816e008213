"""The commands of `docs/first-ten-minutes.md`, run one after the other as somebody new would."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import ANVYL, ANVYL_MCP, CommandResult, anvyl, run_program

PAGE = Path(__file__).parents[2] / "docs" / "first-ten-minutes.md"
NOT_RUN = {
    "scripts/try": "installs the packages from the network into a new environment; CI does, before every test",
    "export": "a setting of the reader's own shell",
}
"""The first words of lines that are not run here, and why."""


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def run(line: str) -> CommandResult:
    program, *words = shlex.split(line, comments=True)
    return anvyl(*words) if program == "anvyl" else run_program(*words, program=ANVYL_MCP)


def test_every_command_of_the_first_ten_minutes_does_what_the_page_says(engine: RealEngine) -> None:
    done = {line: run(line) for line in commands() if line.split()[0] not in NOT_RUN}

    # Without a model, `doctor` has something to say about it, which the page mentions.
    failed = {line: result for line, result in done.items() if result.code != 0 and line != "anvyl doctor"}
    assert failed == {}
    assert len(done) > 15
    assert "engine" in done["anvyl doctor"].out
    assert "hello" in done["anvyl ps"].out
    assert "hello" in done["anvyl logs hello"].out
    assert "hello" in done['anvyl ask "show logs of hello"'].out
    assert "Dry run" in done['anvyl ask "stop hello" --dry-run'].out
    assert "Stopped hello" in done['anvyl ask "stop hello" --yes'].out
    assert "remove_container" in done["anvyl-mcp audit"].out
    assert engine.state("hello") is None


def test_the_programs_of_the_page_are_on_the_path_that_it_sets() -> None:
    for program in (ANVYL, ANVYL_MCP):
        assert Path(program).parent.name == "bin"
        assert subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
