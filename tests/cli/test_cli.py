"""`anvyl` without a model, on real engines: output, exit codes and imports."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

from anvyl_mcp import __version__
from anvyl_mcp.core import text
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import ANVYL, ANVYL_MCP, PYTHON, ServingNode, anvyl, run_program, write_hosts_file
from tests.support.terminal import open_terminal

HEAVIEST = {"mcp", "pydantic", "pydantic_ai", "docker", "psutil", "rich", "httpx", "httpx2", "tomlkit"}
HEAVY = ("mcp", "pydantic", "pydantic_ai", "rich", "docker", "httpx", "httpx2", "anyio", "openai", "psutil")


def test_ps_lists_the_containers_of_every_host(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode
) -> None:
    engine.run("web", labels={"team": "home"})
    engine.create("idle")
    second_engine.run("db")

    piped = anvyl("ps")
    everything = anvyl("ps", "--all", "--json")

    assert (piped.code, piped.err) == (0, "")
    header, *rows = [line.split("\t") for line in piped.out.splitlines()]
    assert header[:2] == ["host", "name"]
    assert [row[:2] for row in rows] == [["first", "web"], ["second", "db"]]
    assert all(len(row) == len(header) for row in rows)
    hosts = everything.json["hosts"]
    assert everything.json["error"] is None
    assert {name: host["ok"] for name, host in hosts.items()} == {"first": True, "second": True}
    assert {one["name"]: one["state"] for one in hosts["first"]["result"]["containers"]} == {
        "web": "running",
        "idle": "created",
    }
    assert set(hosts["second"]["result"]) == {"containers", "total", "more"}
    assert set(hosts["second"]["result"]["containers"][0]) >= {
        "id", "name", "image", "state", "status", "health", "ports", "created"
    }  # fmt: skip
    assert [row.split("\t")[1] for row in anvyl("ps", "--label", "team=home").out.splitlines()[1:]] == ["web"]
    assert [row.split("\t")[1] for row in anvyl("ps", "--name", "d").out.splitlines()[1:]] == ["db"]


@pytest.mark.parametrize(
    ("selector", "hosts"),
    [("local", ["first"]), ("second", ["second"]), ("SECOND,local", ["second", "first"]), ("@Far", ["second"])],
)
def test_a_selector_chooses_the_hosts_that_are_called(
    selector: str, hosts: list[str], engine: RealEngine, second_node: ServingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVYL_NAME", "first")
    assert anvyl("hosts", "add", "second", second_node.url, "--tag", "far").code == 0

    done = anvyl("ps", "--host", selector, "--json")

    assert (done.code, list(done.json["hosts"])) == (0, hosts)


def test_containers_are_started_stopped_and_restarted_by_name_or_id(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode
) -> None:
    number = second_engine.create("db")

    assert anvyl("start", "db").code == 0
    assert second_engine.state("db") == "running"
    before = second_engine.api.inspect_container("db")["State"]["StartedAt"]
    assert anvyl("restart", number[:8], "--host", "second").code == 0
    assert second_engine.api.inspect_container("db")["State"]["StartedAt"] != before
    stopped = anvyl("stop", number[:8], "--timeout", "5", "--json")
    assert (stopped.code, stopped.json["error"]) == (0, None)
    assert stopped.json["hosts"]["second"]["result"]["state"] == "exited"
    assert second_engine.state("db") == "exited"


def test_yes_changes_every_selected_host_without_asking(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode
) -> None:
    engine.run("web")
    second_engine.run("web")

    done = anvyl("stop", "web", "--host", "all", "--yes")

    assert done.code == 0
    assert engine.state("web") == second_engine.state("web") == "exited"


def test_any_tool_can_be_called_with_key_value_arguments(engine: RealEngine) -> None:
    made = anvyl("call", "create_container", "busybox:latest", "name=app", "command=sleep 99", "env=A=1", "env=B=2")
    info = anvyl("call", "get_container_info", "app", "--json")
    words = anvyl("call", "execute_command", "command=echo hello", "--yes")
    removed = anvyl("call", "remove_container", "app", "force=yes", "--yes")

    assert (made.code, made.err) == (0, "")
    [host] = info.json["hosts"].values()
    assert host["ok"] is True
    assert {"A=1", "B=2"} <= set(host["result"]["env"])
    assert (words.code, words.out) == (0, "hello\n")
    assert removed.code == 0
    assert engine.state("app") is None


def test_the_failure_of_one_host_is_reported_with_the_results_of_the_others(
    engine: RealEngine, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    engine.run("web")
    monkeypatch.setenv("ANVYL_NAME", "first")
    write_hosts_file("second", f"http://127.0.0.1:{free_port}")

    done = anvyl("ps")
    document = anvyl("ps", "--json")

    assert done.code == document.code == 3
    assert [line.split("\t")[:2] for line in done.out.splitlines()[1:]] == [["first", "web"]]
    assert "error: second: connection refused\nhint:  is `anvyl-mcp serve` running there?" in done.err
    assert document.json["error"]["code"] == "incomplete" and "second" in document.json["error"]["message"]
    second = document.json["hosts"]["second"]
    assert (second["ok"], second["code"], second["word"]) == (False, "refused", "refused")
    assert second["error"].startswith("connection refused")
    assert "second: connection refused" in document.err


def test_a_command_fails_if_every_host_fails(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    write_hosts_file("second", f"http://127.0.0.1:{free_port}")

    done = anvyl("ps", "--host", "second", "--json")

    assert done.code == 1
    assert done.json["hosts"]["second"]["ok"] is False


def test_hosts_are_added_listed_checked_and_removed(
    engine: RealEngine, second_node: ServingNode, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("ANVYL_NAME", "first")

    added = anvyl("hosts", "add", "Second", f"{second_node.url}/mcp", "--tag", "far", "--tag", "@Disk")
    dead = anvyl("hosts", "add", "dead", f"127.0.0.1:{free_port}", "--json")
    listed = anvyl("hosts", "list")
    document = anvyl("hosts", "list", "--json")

    assert (added.code, added.out) == (0, "")
    assert added.err == f"added second ({second_node.url}); it answers\n"
    assert (dead.code, dead.json["hosts"]["dead"]["status"]) == (0, "unreachable: connection refused")
    assert listed.code == 0
    header, here, second, _ = [line.split("\t") for line in listed.out.splitlines()]
    assert header == ["name", "status", "url", "tags", "version"]
    assert here[:2] == ["first", "ok"]
    assert second == ["second", "ok", second_node.url, "far, disk", __version__]
    assert document.json["error"] is None
    assert set(document.json["hosts"]["second"]) >= {"ok", "url", "status", "tags", "version"}

    assert anvyl("hosts", "check").code == 3
    assert anvyl("hosts", "check", "second").code == 0
    assert anvyl("hosts", "check", "dead").code == 1
    assert anvyl("hosts", "remove", "dead", "--json").json["hosts"]["dead"]["removed"] is True
    assert anvyl("hosts", "remove", "second").err == f"removed second ({second_node.url})\n"
    assert list(anvyl("hosts", "list", "--json").json["hosts"]) == ["first"]


def test_an_unpaired_host_is_added_but_nothing_is_sent_to_it() -> None:
    started = time.monotonic()
    added = anvyl("hosts", "add", "far", "192.0.2.1")
    listed = anvyl("hosts", "check", "far")

    assert time.monotonic() - started < 2
    assert added.code == 0
    assert (
        "added far (http://192.0.2.1:4200), not paired yet; Anvyl sends nothing until you pair it\nhint:  " in added.err
    )
    assert listed.code == 1 and "ssh -N -L" in listed.err


def test_tools_are_listed_with_their_safety_and_arguments() -> None:
    lines = [line.split("\t") for line in anvyl("tools").out.splitlines()]
    document = anvyl("tools", "--json").json

    assert lines[0] == ["tool", "does", "arguments", "description"]
    assert ["stop_container", "changes", "name [timeout]", "Stop a running container."] in lines
    assert document["error"] is None
    tool = next(one for one in document["tools"] if one["name"] == "stop_container")
    assert (tool["safety"], tool["scope"], tool["toolset"]) == ("changes", "operate", "containers")
    assert tool["input_schema"]["required"] == ["name"]


def test_text_from_containers_cannot_move_the_cursor(engine: RealEngine) -> None:
    engine.run("web", ["sh", "-c", "sleep 99", "\x1b[2Jgone\x07"], labels={"note": "\x1b[31mred\u202e"})

    for command in (["call", "get_container_info", "web"], ["ps"]):
        done = anvyl(*command)
        assert done.code == 0
        assert "\x1b" not in done.out and "\x07" not in done.out and "\u202e" not in done.out


def test_the_package_runs_as_a_module() -> None:
    done = run_program("-m", "anvyl_mcp", "--version", program=PYTHON)

    assert (done.code, done.out, done.err) == (0, f"anvyl {__version__}\n", "")


@pytest.mark.parametrize("program", [ANVYL, ANVYL_MCP])
def test_both_programs_have_help_and_a_version(program: str) -> None:
    assert run_program("--version", program=program).out == f"{Path(program).name} {__version__}\n"
    shown = run_program("--help", program=program)
    assert shown.code == 0 and "Usage:" in shown.out
    assert run_program("-h", program=program).out == shown.out
    nothing = run_program(program=program)
    assert (nothing.code, "Usage:" in nothing.out + nothing.err) == (2, True)


def test_a_verbose_version_names_engine_sdk_and_python(engine: RealEngine, tmp_path: Path) -> None:
    for words in (["--version", "-v"], ["-v", "--version"], ["--version", "--verbose"]):
        shown = anvyl(*words)
        found = dict(line.split(maxsplit=1) for line in shown.out.replace(" SDK", "_SDK").splitlines())
        assert shown.code == 0
        assert found["Anvyl"] == __version__
        assert found["Python"].startswith(platform.python_version())
        assert found["MCP_SDK"] == version("mcp")
        assert found["engine"].startswith(f"Docker {engine.api.version()['Version']}, API ")
    (tmp_path / "config.toml").write_text("port = [", encoding="utf-8")
    assert "config.toml" in anvyl("--version", "-v").out


def test_history_without_a_server_shows_what_the_engine_remembers(engine: RealEngine) -> None:
    engine.run("remembered")

    shown = anvyl("history", "remembered", "--json")
    nothing = anvyl("history", "--since", "the day before never")

    assert (shown.code, shown.json["error"]) == (0, None)
    assert {"remembered"} == {one["name"] for one in shown.json["events"]}
    assert "anvyl-mcp serve" in " ".join(shown.json["notes"])
    assert (nothing.code, nothing.out) == (2, "")


def test_upgrade_says_how_this_installation_was_made_and_changes_nothing_by_itself() -> None:
    shown = run_program("upgrade", program=ANVYL_MCP)

    assert shown.code == 0
    assert f"Anvyl {__version__}" in shown.out + shown.err
    assert "to upgrade it" in shown.out + shown.err


@pytest.mark.parametrize("module", ["operator", "host"])
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["tools", "--help"]], ids=" ".join)
def test_help_and_version_import_nothing_heavy(module: str, words: list[str]) -> None:
    """Typer imports pydantic only to convert option values of a command that runs."""
    script = (
        f"import os, sys; os._exit = sys.exit; sys.argv[1:] = {words}\n"
        f"from anvyl_mcp.cli.programs.{module} import main\n"
        "try:\n    main()\n"
        f"finally:\n    print(*({set(HEAVY)} & sys.modules.keys()), file=sys.stderr)"
    )

    done = run_program("-c", script, program=PYTHON)

    assert (done.code, done.err.split()) == (0, [])
    assert done.out


def test_a_command_that_calls_a_running_server_does_not_import_the_sdk(fleet: ServingNode) -> None:
    """Importing the SDK takes a second, and the server has already done so."""
    script = (
        "import os, sys; os._exit = sys.exit; sys.argv[1:] = ['ps', '--host', 'second']\n"
        "from anvyl_mcp.cli.programs.operator import main\n"
        "try:\n    main()\n"
        f"finally:\n    print(*({HEAVIEST} & sys.modules.keys()), file=sys.stderr)"
    )
    anvyl("tools")

    done = run_program("-c", script, program=PYTHON)

    assert (done.code, done.err.split()) == (0, [])


@pytest.mark.parametrize("command", [["tools"], ["tools", "--json"], ["hosts", "list"], ["--help"]], ids=" ".join)
def test_a_closed_pipe_ends_a_command_quietly(command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run([ANVYL, *command], stdout=closed, stderr=subprocess.PIPE, check=False)

    assert done.stderr == b""
    assert done.returncode in (0, 1)


def test_head_of_the_tools_is_one_line() -> None:
    done = run_program("-c", f"{ANVYL} tools | head -1", program="/bin/sh")

    assert (done.code, done.out, done.err) == (0, "tool\tdoes\targuments\tdescription\n", "")


@pytest.mark.parametrize("words", [["ask", "\udcff"], ["stop", "\udcff"]])
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["words", "json"])
def test_undecodable_arguments_do_not_crash(words: Sequence[str], form: list[str]) -> None:
    done = run_program(*words, *form, LC_ALL="C.UTF-8")

    assert done.code in (1, 2, 4, 5)
    assert "error:" in done.err
    if form:
        assert done.json


@pytest.mark.parametrize(
    ("typed", "code", "state"),
    [("y\n", 0, "exited"), ("\n", 5, "running"), ("\x04", 5, "running")],
    ids=["y", "enter", "end of input"],
)
def test_a_question_asks_before_it_changes_something(
    typed: str, code: int, state: str, engine: RealEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVYL_NAME", "first")
    engine.run("web")

    with open_terminal("ask", "--offline", "stop web") as terminal:
        terminal.until("running) on first? [y/N/edit hosts] ")
        assert engine.state("web") == "running"
        terminal.type(typed)
        assert terminal.end() == code

    assert engine.state("web") == state


def test_a_destructive_command_asks_first(engine: RealEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANVYL_NAME", "first")
    engine.create("web")

    with open_terminal("call", "remove_container", "web") as terminal:
        terminal.until("Remove container web on first? [y/N] ")
        terminal.type("\n")
        assert terminal.end() == 5

    assert "nothing was changed" in terminal.shown
    assert engine.state("web") == "created"


def test_a_terminal_gets_a_table(engine: RealEngine) -> None:
    engine.run("web")

    with open_terminal("ps") as terminal:
        assert terminal.end() == 0

    assert re.search(r"HOST +NAME", text.clean(terminal.shown))
    assert "\t" not in terminal.shown and "web" in terminal.shown


def test_no_color_is_respected(engine: RealEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    engine.run("web")

    for command in (["ps"], ["ps", "--host", "nowhere"]):
        with open_terminal(*command) as terminal:
            terminal.end()
        assert terminal.shown
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]", terminal.shown)


@pytest.mark.parametrize(
    "command", [["ask", "--offline", "--yes", "stop slow"], ["stop", "slow"]], ids=["ask", "direct"]
)
def test_ctrl_c_during_a_slow_stop_ends_at_once(command: list[str], engine: RealEngine) -> None:
    """Fault table, row 17: it ends within 0.5 s."""
    engine.run("slow", ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], init=False)
    stopping = engine.api.events(filters={"event": "kill", "container": "slow"}, decode=True)

    with open_terminal(*command) as terminal:
        next(stopping)
        terminal.type("\x03")
        started = time.monotonic()
        code = terminal.end(10)
        took = time.monotonic() - started

    stopping.close()
    assert code == 130, terminal.shown
    assert "interrupted" in terminal.shown and "Traceback" not in terminal.shown
    assert took < 0.5


def test_ctrl_c_at_the_prompt_changes_nothing(engine: RealEngine) -> None:
    engine.run("web")

    with open_terminal("ask", "--offline", "stop web") as terminal:
        terminal.until("[y/N/edit hosts] ")
        terminal.type("\x03")
        assert terminal.end(5) == 130

    assert "interrupted" in terminal.shown and "Traceback" not in terminal.shown
    assert engine.state("web") == "running"
