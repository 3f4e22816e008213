"""Usage errors and help: consistent messages, and suggestions for users of Docker."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from anvyl_mcp.cli.parser.lazy_commands import describe_commands
from anvyl_mcp.cli.programs import host, operator
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import ANVYL_MCP, CommandResult, ServingNode, anvyl, run_program
from tests.support.terminal import open_terminal


@pytest.mark.parametrize(
    ("typed", "error", "hint"),
    [
        (["stpo"], "there is no command `stpo`", "did you mean `stop`?"),
        (["frobnicate"], "there is no command `frobnicate`", "anvyl --help lists the commands"),
        (["kill", "web"], "there is no command `kill`", "anvyl stop --timeout 0 NAME"),
        (["status"], "there is no command `status`", "anvyl hosts check"),
        (["serve"], "there is no command `serve`", "anvyl-mcp serve"),
        (["stop web"], "`stop web` is not a command", "anvyl ask 'stop web'"),
        (["show", "logs", "of", "web"], "`show` is not a command", "anvyl ask 'show logs of web'"),
        (["hosts", "lsit"], "there is no command `lsit`", "did you mean `list`?"),
        (["stop"], "missing argument `CONTAINER`", "type anvyl stop CONTAINER...; anvyl stop --help"),
        (["logs", "web", "--jsno"], "no such option `--jsno`", "did you mean `--json`"),
        (
            ["logs", "web", "--tail", "x"],
            "`--tail` must be a whole number, not `x`",
            "type anvyl logs --tail LINES CONTAINER...",
        ),
        (["exec", "web"], "a command is missing", "type anvyl exec CONTAINER [COMMAND...]"),
        (["chat", "x"], "to continue a conversation, type anvyl chat --resume ID", "anvyl chat --help"),
        (["completion", "tcsh"], "`tcsh` is not supported; choose bash, zsh or fish", "anvyl completion --help"),
        (
            ["stop", "--timeout"],
            "option `--timeout` requires an argument",
            "type anvyl stop --timeout SECONDS CONTAINER...",
        ),
        (["ps", "x", "y"], "unexpected argument `x y`", "type anvyl ps; anvyl ps --help shows the options"),
        (
            ["models", "load", "m", "-c", "3"],
            "`--context-length` must be at least 2048, not 3",
            "--context-length TOKENS",
        ),
        (["eval", "--repeat", "101"], "`--repeat` must be at most 100, not 101", "type anvyl eval --repeat TIMES"),
        (["hosts", "discover", "--seconds", "x"], "`--seconds` must be a number, not `x`", "--seconds SECONDS"),
        (["hosts", "--jsno"], "no such option `--jsno`", "anvyl hosts --help lists the commands"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_a_usage_error_has_the_format_of_other_errors(typed: list[str], error: str, hint: str) -> None:
    done = anvyl(*typed)

    first, second = done.err.splitlines()
    assert done.code == 2
    assert first.startswith("error: ") and error in first
    assert second.startswith("hint:  ") and hint in second


def test_a_usage_error_is_json_with_the_json_flag() -> None:
    done = anvyl("ps", "--json", "--nonsense")

    assert done.code == 2
    assert done.json["error"]["message"] == "no such option `--nonsense`"


def test_the_host_program_reports_its_errors_and_names_our_commands() -> None:
    typed = (("ps", "-a"), ("token", "create"), ("help",), ("version",))
    ours, missing, helped, version = (run_program(*words, program=ANVYL_MCP) for words in typed)

    assert (ours.code, ours.err) == (2, "error: `ps` is a command of `anvyl`\nhint:  type anvyl ps -a\n")
    assert missing.code == 2
    assert missing.err.startswith("error: missing argument `NAME`\nhint:  type anvyl-mcp token create NAME;")
    assert version.out.startswith("anvyl-mcp ")
    assert helped.code == 0 and "Usage: anvyl-mcp" in helped.out


APPS = {"anvyl": operator.app, "anvyl-mcp": host.app}
TREES = {name: describe_commands(app) for name, app in APPS.items()}


def commands_of(words: list[str], node: dict[str, Any]) -> Iterator[tuple[list[str], bool]]:
    """Yield a command and its subcommands, each with whether it is a group."""
    yield words, bool(node["commands"])
    for name, each in node["commands"].items():
        yield from commands_of([*words, name], each)


EVERY = [each for name, tree in TREES.items() for each in commands_of([name], tree)]
NAMES = re.compile(r"[A-Z][A-Z_=]*\]?\.\.\.")
"""Repeatable arguments, like `CONTAINER...`."""


@pytest.mark.parametrize(
    ("words", "is_group"), EVERY, ids=lambda each: " ".join(each) if isinstance(each, list) else ""
)
def test_help_is_complete_and_readable(words: list[str], is_group: bool) -> None:
    shown = CliRunner().invoke(
        APPS[words[0]], [*words[1:], "--help"], prog_name=words[0], env={"COLUMNS": "80"}, catch_exceptions=False
    )

    assert shown.exit_code == 0
    assert not re.search(r"<[a-z]", shown.stdout)
    assert "…" not in shown.stdout
    assert "..." not in NAMES.sub("", shown.stdout.replace("[ARGS]...", ""))
    assert max(map(len, shown.stdout.splitlines())) <= 80
    _, _, ending = shown.stdout.partition("\nExamples:\n")
    examples = [shlex.split(line) for line in ending.splitlines() if line.startswith("  ")]
    assert len(examples) == (3 if is_group else 0)
    for example in examples:
        assert example[: len(words)] == words
        assert unknown(example) == []


def unknown(line: list[str]) -> list[str]:
    """Return the words of a command line that are neither a command nor an option, but should be."""
    node, is_value, found = TREES[line[0]], False, []
    for word in line[1:]:
        if is_value:
            is_value = False
        elif word.startswith("-"):
            found += [] if word in node["options"] else [word]
            is_value = bool(node["options"].get(word, [""])[0])
        elif node["commands"]:
            found += [] if word in node["commands"] else [word]
            node = node["commands"].get(word, node)
    return found


def test_both_programs_list_commands_under_headings() -> None:
    for app, headings in ((operator.app, operator.COMMANDS), (host.app, host.COMMANDS)):
        shown = CliRunner().invoke(app, ["--help"]).stdout
        places = [shown.index(f"\n{heading}:\n") for heading in headings]
        assert places == sorted(places)


def test_docker_commands_are_aliases(engine: RealEngine) -> None:
    engine.run("web")

    def same(alias: list[str], command: list[str]) -> bool:
        one, other = anvyl(*alias, "--json"), anvyl(*command, "--json")
        return one.code == other.code == 0 and list(one.json["hosts"]) == list(other.json["hosts"])

    assert same(["ls"], ["ps"]) and same(["inspect", "web"], ["info", "web"]) and same(["top"], ["stats"])
    [disk] = anvyl("df", "--json").json["hosts"].values()
    [happened] = anvyl("events", "--since", "5m", "--json").json["hosts"].values()
    assert disk["ok"] and happened["ok"]
    assert any(event["name"] == "web" for event in happened["result"]["events"])
    assert anvyl("help", "stop").out == anvyl("stop", "--help").out
    assert anvyl("version").out == anvyl("--version").out


def line_in(done: CommandResult) -> str:
    return next(line for line in done.err.splitlines() if line.startswith("hint:"))


def test_exec_it_explains_how_to_open_a_shell(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode
) -> None:
    engine.run("web")
    second_engine.run("db")

    here, there, with_time = (
        anvyl("exec", "-it", "web"),
        anvyl("exec", "-it", "db", "bash"),
        anvyl("exec", "-t", "5", "web", "true"),
    )
    after_host = anvyl("exec", "--host", "second", "-i", "-t", "db", "sh")
    nothing_typed = anvyl("exec", "web", "sh")
    none = anvyl("exec", "-it", "nothing")

    assert here.code == there.code == after_host.code == 2
    assert "cannot open a shell in `web` on first" in here.err
    assert line_in(here) == "hint:  type: docker exec -it web sh"
    assert line_in(there) == "hint:  type: ssh -t second docker exec -it db bash"
    assert line_in(after_host) == "hint:  type: ssh -t second docker exec -it db sh"
    assert with_time.code == 0
    assert nothing_typed.code == 0 and "`sh` exited without output" in nothing_typed.err
    assert line_in(nothing_typed) == "hint:  for a shell, type: docker exec -it web sh"
    assert none.code == 1 and "no host has a container `nothing`" in none.err


def test_the_gateway_explains_itself_at_a_terminal() -> None:
    with open_terminal("gateway", program=ANVYL_MCP) as terminal:
        terminal.until("waiting for MCP on stdin")
        terminal.until("anvyl-mcp install")


def test_install_all_configures_every_installed_assistant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    for folder in (".cursor", ".config/Claude"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".cursor" / "mcp.json").write_text("{ damaged", encoding="utf-8")

    done = run_program("install", "--all", "--json", program=ANVYL_MCP)
    misspelled = run_program("install", "clade", program=ANVYL_MCP)

    assert done.code == 3
    found = {one["client"]: one for one in done.json["clients"]}
    assert found["claude-desktop"]["written"] and not found["cursor"]["written"]
    assert "mcp.json" in found["cursor"]["error"]["message"]
    assert (
        "anvyl" in json.loads((tmp_path / ".config/Claude/claude_desktop_config.json").read_text("utf-8"))["mcpServers"]
    )
    assert misspelled.code == 2 and "did you mean `claude-code`, `claude-desktop`?" in misspelled.err
