"""Bad input gives one sentence, a hint and an exit code, and changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import ANVYL, PYTHON, ServingNode, anvyl


@pytest.mark.parametrize(
    ("command", "code", "message", "hint"),
    [
        ("ps --host nowhere", 2, "there is no host `nowhere`", "first"),
        ("ps --host @nothing", 2, "there is no host `@nothing`", ""),
        ("stop wbe", 1, "no host has a container `wbe`", "did you mean `web`?"),
        ("stop wbe --host first", 1, "there is no container `wbe`", "did you mean `web`?"),
        ("call stop_container nam=web", 2, "no argument `nam`", "did you mean `name`?"),
        ("call stop_container name=web forse=1", 2, "no argument `forse`", "`name`"),
        ("call stop_container", 2, "`stop_container` needs `name`", "name=…"),
        ("call stop_containr name=web", 2, "there is no tool `stop_containr`", "did you mean `stop_container`"),
        ("call list_containers all=perhaps", 2, "`all` is `perhaps`", "all=true"),
        ("call list_containers limit=0 --host first", 2, "`limit` is 0", ""),
        ("call create_container image=busybox", 2, "`create_container` needs a host", "--host first"),
        ("call create_container image=nothere:1 --host first", 1, "no image `nothere:1`", "list_images"),
        ("call create_container image=busybox ports=99999:1 --host first", 2, "not a port", "8080:80"),
        ("call remove_container name=web", 5, "no terminal to ask at", "--yes"),
        ("restart web --host all", 5, "no terminal to ask at", "--yes"),
        ("hosts add first http://127.0.0.1:9", 1, "that is this host", ""),
        ("hosts add second http://127.0.0.1:9", 1, "there is already a host `second`", "anvyl hosts remove second"),
        ("hosts add all http://127.0.0.1:9", 2, "`all` cannot be a host name", "another name"),
        ("hosts add nas ftp://127.0.0.1", 2, "ftp", "http"),
        ("hosts remove nas", 2, "there is no host `nas`", "`second`"),
        ("hosts check nas", 2, "there is no host `nas`", "`second`"),
    ],
)
def test_bad_input_gives_a_message_and_a_hint(
    command: str, code: int, message: str, hint: str, engine: RealEngine, fleet: ServingNode
) -> None:
    engine.run("web")

    done = anvyl(*command.split(), ANVYL_LMSTUDIO_URL="http://127.0.0.1:1/v1")

    assert (done.code, done.out) == (code, ""), done.err
    assert message in done.err and hint in done.err, done.err
    assert engine.state("web") == "running"


def test_an_empty_question_is_refused_with_an_example() -> None:
    done = anvyl("ask", "  ")

    assert done.code == 2
    assert "there is no question" in done.err and "list all containers" in done.err


def test_a_question_the_rules_cannot_parse_shows_three_examples() -> None:
    done = anvyl("ask", "make me a sandwich", "--offline", "--json")

    assert done.code == 4
    assert done.json["error"]["code"] == "not_understood"
    assert done.json["error"]["hint"].count("`") >= 6
    assert done.json["calls"] == []


def test_a_missing_docker_engine_is_reported_in_one_sentence() -> None:
    done = anvyl("ps")

    assert done.code == 1
    assert "no Docker engine is running on this host" in done.err
    assert "hint:" in done.err


def test_a_docker_socket_without_permission_is_reported_in_one_sentence(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become a user without access to the socket")
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "docker.sock"))
        (tmp_path / "docker.sock").chmod(0o600)
        tmp_path.chmod(0o755)
        home = tmp_path / "unprivileged"
        home.mkdir()
        home.chmod(0o777)
        done = subprocess.run(
            [PYTHON, "-c", AS_UNPRIVILEGED_USER],
            env={**os.environ, "ANVYL_HOME": str(home), "DOCKER_HOST": f"unix://{tmp_path}/docker.sock"},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )

    assert "this user may not use the Docker engine" in done.stderr, done.stderr
    assert "docker` group" in done.stderr


AS_UNPRIVILEGED_USER = """
import os, sys
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.server.engine.engine import Engine
os.setgid(65534); os.setuid(65534)
try:
    Engine().version()
except AnvylError as error:
    print(error, file=sys.stderr)
"""


def test_a_hosts_file_that_is_not_toml_is_named_and_kept(tmp_path: Path) -> None:
    broken = '[hosts.nas]\nurl = "http://127.0.0.1:4210\n'
    (tmp_path / "hosts.toml").write_text(broken, encoding="utf-8")

    for command in (["ps"], ["hosts", "list"], ["hosts", "add", "gpu", "127.0.0.1:9"], ["hosts", "remove", "nas"]):
        done = anvyl(*command)
        assert done.code == 1, command
        assert str(tmp_path / "hosts.toml") in done.err and "not valid TOML" in done.err
    assert (tmp_path / "hosts.toml").read_text(encoding="utf-8") == broken


@pytest.mark.parametrize(
    ("content", "message"),
    [("prot = 1", "unknown setting `prot`"), ("port = 'x'", "not a port number"), ("port = [", "not valid TOML")],
)
def test_an_invalid_settings_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.toml").write_text(content, encoding="utf-8")

    done = anvyl("hosts", "list")

    assert done.code in (1, 2)
    assert message in done.err and "config.toml" in done.err


def test_errors_are_printed_as_json_too(engine: RealEngine) -> None:
    for command, code in (("ps --host nowhere", "unknown_host"), ("call no_tool", "invalid_input")):
        done = anvyl(*command.split(), "--json")
        document = json.loads(done.out)
        assert document["hosts"] == {}
        assert document["error"]["code"] == code
        assert set(document["error"]) == {"code", "message", "hint"}


def test_usage_errors_exit_with_2() -> None:
    assert anvyl("stop").code == 2
    assert anvyl("no-such-command").code == 2
    assert anvyl("ps", "--no-such-option").code == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["tools", "tools --json", "--help"])
def test_a_full_disk_is_reported_in_one_sentence(command: str) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run([ANVYL, *command.split()], stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr == "error: the output could not be written: No space left on device\n"
