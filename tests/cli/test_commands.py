"""Commands that need no model, on real engines: several names, several hosts and live output."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.support.engine.engines import RealEngine
from tests.support.engine.registry import NAME as REMOTE_IMAGE
from tests.support.engine.registry import registry
from tests.support.hosts.nodes import ANVYL, ServingNode, anvyl, run_program, running_node, write_hosts_file
from tests.support.terminal import open_terminal


def test_several_containers_on_several_hosts_are_changed_together(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode
) -> None:
    engine.run("web")
    second_engine.run("db")

    done = anvyl("stop", "web", "db", "web", "--yes", "--json")

    assert (done.code, done.json["error"]) == (0, None)
    assert [(one["arguments"]["name"], one["host"], one["ok"]) for one in done.json["calls"]] == [
        ("web", "first", True),
        ("db", "second", True),
    ]
    assert engine.state("web") == second_engine.state("db") == "exited"


def test_changes_on_several_hosts_need_approval(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode
) -> None:
    engine.run("web")
    second_engine.run("db")

    done = anvyl("stop", "web", "db")

    assert done.code == 5
    assert "this would stop web on first and stop db on second" in done.err
    assert engine.state("web") == second_engine.state("db") == "running"


def test_a_wrong_name_on_one_host_is_reported_with_the_changes_made(engine: RealEngine) -> None:
    engine.run("web")

    done = anvyl("stop", "web", "wbe", "--json")
    alone = anvyl("stop", "wbe")

    assert (done.code, alone.code) == (3, 1)
    assert [one["ok"] for one in done.json["calls"]] == [True, False]
    assert "did you mean `web`" in alone.err


def test_a_wrong_name_in_a_fleet_changes_nothing(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode
) -> None:
    engine.run("web")

    done = anvyl("stop", "web", "wbe")

    assert done.code == 1
    assert "no host has a container `wbe`; nothing was changed" in done.err
    assert engine.state("web") == "running"


def test_reads_show_existing_containers_and_report_missing_ones(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode
) -> None:
    engine.run("web")

    done = anvyl("info", "web", "wbe")

    assert done.code == 3
    assert "web (" in done.out
    assert "error: no host has a container `wbe`" in done.err


def test_a_removal_needs_approval(engine: RealEngine) -> None:
    engine.create("old")
    engine.run("web")

    refused = anvyl("rm", "old", "web")
    done = anvyl("rm", "old", "web", "--force", "--yes")

    assert refused.code == 5
    assert done.code == 0
    assert engine.state("old") is engine.state("web") is None


def test_run_takes_the_options_of_docker(engine: RealEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "yes")

    done = anvyl(
        "run", "-d", "-p", "18081:80", "-e", "A=1", "-e", "FROM_HERE", "-v", "data:/data", "-l", "team=home",
        "--name", "app", "--restart", "unless-stopped", "-m", "64m", "--cpus", "0.5",
        "busybox:latest", "--", "sh", "-c", "sleep 3600; :",
    )  # fmt: skip

    assert (done.code, done.out, done.err) == (0, "created app, which is running, 18081->80\n", "")
    made = engine.api.inspect_container("app")
    assert made["Config"]["Cmd"] == ["sh", "-c", "sleep 3600; :"]
    assert {"A=1", "FROM_HERE=yes"} <= set(made["Config"]["Env"])
    assert made["Config"]["Labels"]["team"] == "home"
    assert made["HostConfig"]["Binds"] == ["data:/data"]
    assert made["HostConfig"]["Memory"] == 64 * 1024**2
    assert made["HostConfig"]["NanoCpus"] == 500_000_000
    assert made["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert made["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": "18081"}]}


def test_words_after_the_image_are_the_command_of_the_container(engine: RealEngine) -> None:
    assert anvyl("run", "--name", "app", "busybox:latest", "sh", "-c", "sleep 3600; :").code == 0
    refused = anvyl("run", "busybox:latest", "--name", "other")

    assert engine.api.inspect_container("app")["Config"]["Cmd"] == ["sh", "-c", "sleep 3600; :"]
    assert refused.code == 2
    assert "`--name` would be taken for the command" in refused.err
    assert engine.state("other") is None


def test_a_variable_that_is_not_set_in_the_shell_is_refused(engine: RealEngine) -> None:
    done = anvyl("run", "-e", "NOT_SET", "busybox:latest")

    assert done.code == 2
    assert "`NOT_SET` has no value" in done.err


def test_a_new_container_needs_a_host(engine: RealEngine, second_engine: RealEngine, fleet: ServingNode) -> None:
    done = anvyl("run", "busybox:latest", "--", "sleep", "99")

    assert done.code == 2
    assert "choose one of first, second" in done.err and "--place most-memory" in done.err


def test_exec_exits_with_the_code_of_the_command(second_engine: RealEngine, fleet: ServingNode) -> None:
    second_engine.run("web")

    done = run_program("exec", "--host", "second", "web", "sh", "-c", "echo out; echo err >&2; exit 7")
    apart = run_program("exec", "--host", "second", "web", "--timeout", "5", "--", "echo", "--host", "x")

    assert (done.code, done.out, done.err) == (7, "out\n", "err\n")
    assert (apart.code, apart.out) == (0, "--host x\n")
    assert run_program("exec", "--host", "second", "web", "--json", "--", "false").json["hosts"]
    assert run_program("exec", "--host", "second", "web", "nonsense").code == 1


def test_exec_on_several_hosts_needs_approval_and_labels_the_output(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode
) -> None:
    engine.run("web")
    second_engine.run("web")

    refused = anvyl("exec", "--host", "all", "web", "echo", "hello")
    done = anvyl("exec", "--host", "all", "--yes", "web", "echo", "hello")

    assert refused.code == 5
    assert (done.code, done.out) == (0, "first: hello\nsecond: hello\n")


def test_logs_of_several_containers_are_labelled(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode
) -> None:
    engine.run("web", ["sh", "-c", "echo one; echo two; sleep 3600"])
    second_engine.run("db", ["sh", "-c", "echo three; sleep 3600"])

    alone = poll_until(lambda: anvyl("logs", "web").out, "two\n")
    both = poll_until(lambda: anvyl("logs", "web", "db", "--tail", "1").out, "second/db\tthree\n")
    document = anvyl("logs", "web", "--grep", "on", "--json").json

    assert alone == "one\ntwo\n"
    assert both == "first/web\ttwo\nsecond/db\tthree\n"
    assert document["hosts"]["first"]["result"]["lines"] == ["one"]


def poll_until(call: Callable[[], str], expected: str) -> str:
    """Call repeatedly until the output contains `expected`, since a container takes a moment to log."""
    for _ in range(50):
        if expected in (output := call()):
            return output
    raise AssertionError(f"{expected!r} did not appear")


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the background and kill it at the end."""
    started = subprocess.Popen(
        [ANVYL, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def line(stream: IO[str] | None, seconds: float = 60) -> str:
    """Read the next line. Reads byte by byte, since a buffered reader would hide data from `select`."""
    assert stream is not None
    data = b""
    while not data.endswith(b"\n"):
        assert select.select([stream], [], [], seconds)[0], "no line arrived"
        if not (byte := os.read(stream.fileno(), 1)):
            break
        data += byte
    return data.decode()


def test_followed_logs_continue_until_ctrl_c(second_engine: RealEngine, fleet: ServingNode) -> None:
    second_engine.run("web", ["sh", "-c", "echo ready; while ! [ -e /go ]; do sleep 0.1; done; echo gone; sleep 3600"])

    with running("logs", "-f", "web", "--host", "second") as following:
        assert line(following.stdout) == "ready\n"
        assert anvyl("exec", "--host", "second", "web", "touch", "/go").code == 0
        assert line(following.stdout) == "gone\n"
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 130
        assert following.stderr is not None and following.stderr.read() == "interrupted\n"


def test_followed_logs_as_json_are_an_object_per_line(second_engine: RealEngine, fleet: ServingNode) -> None:
    second_engine.run("web", ["sh", "-c", "echo ready; sleep 3600"])

    with running("logs", "-f", "--json", "web", "--host", "second") as following:
        assert json.loads(line(following.stdout)) == {"host": "second", "name": "web", "line": "ready"}


def test_followed_logs_survive_a_restart_of_the_host(
    engine: RealEngine, second_engine: RealEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_engine.run("db", ["sh", "-c", "echo ready; while ! [ -e /go ]; do sleep 0.1; done; echo gone; sleep 3600"])

    with running_node("second", tmp_path / "second", second_engine) as node:
        write_hosts_file("second", node.url, node.token)
        with running("logs", "-f", "db", "--host", "second") as following:
            assert line(following.stdout) == "ready\n"
            port = node.port
            node.kill()
            assert "second: " in line(following.stderr)
            node.start(port)
            write_hosts_file("second", node.url, node.token)
            assert anvyl("exec", "--host", "second", "db", "touch", "/go").code == 0
            assert line(following.stdout) == "gone\n"


def test_followed_logs_end_with_the_container(second_engine: RealEngine, fleet: ServingNode) -> None:
    second_engine.run("web", ["sh", "-c", "echo ready; sleep 3600"])

    with running("logs", "-f", "web", "--host", "second") as following:
        assert line(following.stdout) == "ready\n"
        second_engine.api.remove_container("web", force=True)
        while "no container `web`" not in line(following.stderr):
            """The engine may first report that it is being removed."""
        assert following.wait(20) == 0


def test_a_closed_pipe_ends_a_followed_log_quietly(second_engine: RealEngine, fleet: ServingNode) -> None:
    second_engine.run("web", ["sh", "-c", "while :; do echo more; sleep 0.1; done"])

    done = run_program("-c", f"{ANVYL} logs -f web --host second | head -1", program="/bin/sh")

    assert (done.code, done.out, done.err) == (0, "more\n", "")


def test_watched_statistics_are_redrawn_until_ctrl_c(second_engine: RealEngine, fleet: ServingNode) -> None:
    second_engine.run("web")

    with open_terminal("stats", "--watch", "--host", "second") as terminal:
        terminal.until("NET OUT")
        terminal.until("\x1b[1A\x1b[2K")
        terminal.type("\x03")
        assert terminal.end() == 130

    assert "interrupted" in terminal.shown and "Traceback" not in terminal.shown


def test_watched_statistics_on_a_dumb_terminal_are_rows(
    second_engine: RealEngine, fleet: ServingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    second_engine.run("web")

    with open_terminal("stats", "--watch", "--host", "second") as terminal:
        terminal.until("second\tweb\t")
        terminal.until("second\tweb\t")
        terminal.type("\x03")
        assert terminal.end() == 130

    assert "\x1b" not in terminal.shown


def test_watched_statistics_as_json_are_an_object_per_update(second_engine: RealEngine, fleet: ServingNode) -> None:
    second_engine.run("web")

    with running("stats", "--watch", "--host", "second", "--json") as watching:
        for _ in range(2):
            [call] = json.loads(line(watching.stdout))["calls"]
            assert [one["name"] for one in call["result"]["containers"]] == ["web"]


def test_resources_are_a_line_per_host(engine: RealEngine, second_engine: RealEngine, fleet: ServingNode) -> None:
    rows = [row.split("\t") for row in anvyl("resources").out.splitlines()]

    assert rows[0] == ["host", "cpu", "memory", "disk", "load", "up"]
    assert sorted(row[0] for row in rows[1:]) == ["first", "second"]
    assert all(row[1].endswith(" %") and " of " in row[2] for row in rows[1:])


def test_an_image_is_pulled_and_listed(engine: RealEngine) -> None:
    if not engine.private:
        pytest.skip("the registry needs a private engine")
    with registry(engine):
        done = anvyl("pull", REMOTE_IMAGE)
        again = anvyl("pull", REMOTE_IMAGE, "--json")

    assert (done.code, done.err) == (0, "")
    assert f"pulled {REMOTE_IMAGE}" in done.out
    assert again.json["calls"][0]["result"]["new"] is False
    assert REMOTE_IMAGE in anvyl("images").out
    assert anvyl("call", "remove_image", REMOTE_IMAGE, "--yes").code == 0


def test_a_closed_pipe_does_not_abort_a_change(second_engine: RealEngine, fleet: ServingNode) -> None:
    """The second container ignores its signal for three seconds and is still stopped."""
    second_engine.run("quick")
    second_engine.run("slow", ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], init=False)
    reading, writing = os.pipe()
    os.close(reading)

    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [ANVYL, "stop", "quick", "slow", "--timeout", "3", "--host", "second"],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert done.stderr == b""
    assert second_engine.state("quick") == second_engine.state("slow") == "exited"


def test_results_of_fast_hosts_are_shown_while_a_slow_one_is_pending(
    engine: RealEngine, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVYL_NAME", "first")
    engine.run("web")
    with running_node("first", Path(os.environ["ANVYL_HOME"]), engine):
        write_hosts_file("slow", f"http://127.0.0.1:{silent_port}")
        with running("ps") as listing:
            assert line(listing.stdout).startswith("host\t")
            assert line(listing.stdout).startswith("first\tweb\t")
            assert listing.poll() is None
            assert "slow: no answer within 3 s" in line(listing.stderr)
            assert listing.wait(20) == 3


def test_a_terminal_shows_the_pending_hosts(
    engine: RealEngine, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVYL_NAME", "first")
    engine.run("web")
    write_hosts_file("slow", f"http://127.0.0.1:{silent_port}")

    with open_terminal("ps") as terminal:
        terminal.until("waiting for slow")
        assert terminal.end() == 3

    assert "slow: no answer within 3 s" in terminal.shown


@pytest.mark.parametrize("command", ["list", "check"])
def test_hosts_that_answer_are_listed_while_a_silent_one_is_pending(
    engine: RealEngine, silent_port: int, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("ANVYL_NAME", "first")
    write_hosts_file("slow", f"http://127.0.0.1:{silent_port}")

    with running_node("first", Path(os.environ["ANVYL_HOME"]), engine), open_terminal("hosts", command) as terminal:
        terminal.until("waiting for slow")
        assert "ok" in terminal.shown and "no answer" not in terminal.shown
        assert terminal.end() == (0 if command == "list" else 3)

    assert "unreachable: no answer within 3 s" in terminal.shown


def test_an_interrupted_change_warns_that_it_may_still_happen(engine: RealEngine) -> None:
    engine.run("slow", ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], init=False)
    stopping = engine.api.events(filters={"event": "kill", "container": "slow"}, decode=True)

    with open_terminal("stop", "slow") as terminal:
        next(stopping)
        terminal.type("\x03")
        assert terminal.end() == 130

    stopping.close()
    assert "may still happen; check before you repeat it" in terminal.shown


@pytest.mark.parametrize("words", [["stop"], ["stop", "--timeout", "soon", "web"], ["ps", "--nonsense"]], ids=" ".join)
def test_usage_errors_are_printed_as_json_too(words: list[str]) -> None:
    done = anvyl(*words, "--json")

    assert done.code == 2
    assert done.json["error"]["code"] == "invalid_input"


def test_an_unknown_command_suggests_similar_ones() -> None:
    done = anvyl("stpo", "web")

    assert done.code == 2
    assert "there is no command `stpo`\nhint:  did you mean `stop`?" in done.err
