"""A command for a container runs in the container or not at all, however it is written; never on the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import CommandResult, anvyl

ON_THE_MACHINE = "execute_command"
IN_THE_CONTAINER = (
    "docker exec web touch {file}",
    "sudo docker exec web touch {file}",
    "docker exec -it web touch {file}",
    "docker container exec web touch {file}",
    "podman exec web touch {file}",
    "please docker exec web touch {file}",
    "local: docker exec web touch {file}",
    "docker exec web touch {file} on local",
    "exec web touch {file}",
    "exec in web: touch {file}",
    "exec inside the container web: touch {file}",
    'docker exec web sh -c "touch {file}"',
    "run `touch {file}` in web",
    "execute touch {file} in web",
    "on local run `touch {file}` for the container web",
)
NOWHERE = (
    "docker compose exec web touch {file}",
    "docker-compose exec web touch {file}",
    "docker exec --user root web touch {file}",
    "docker exec web touch a; touch {file}",
    "docker exec web touch a && touch {file}",
    "docker exec wbe touch {file}",
    "kubectl exec web -- touch {file}",
    "exec wbe touch {file}",
    "exec in wbe: touch {file}",
    "exec into web and touch {file}",
    "exec touch {file}",
    "exec touch {file} on local",
    "execute web touch {file} on local",
    "execute touch {file}",
    "execute touch {file} in wbe",
    "on local execute touch {file} in the container wbe",
    "run command docker exec wbe touch {file} on local",
    "run command web touch {file}",
    "run `touch {file}` on local in the container wbe",
    "run `touch {file}` on local inside wbe container",
    'execute the command "touch {file}" within wbe on local',
    'run command "touch {file}" in service web on local',
    "execute `touch {file}` through web on local",
    "on local, run command `touch {file}` in all containers",
    "run command touch {file} on web",
    "run command touch {file} on wbe",
    "run command touch {file} at wbe on local",
    "run command touch {file} on local for web",
    "run command touch {file} on local from web",
    "run command touch {file} in pod web on local",
    "run command touch {file} in my Web app on local",
    "run command touch {file} using web on local",
    "run command touch {file} via wbe's container on local",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Path of a file in a folder that exists only on the machine."""
    return tmp_path / "made-on-the-machine"


def asked(sentence: str, file: Path) -> CommandResult:
    return anvyl("ask", "--offline", "--yes", "--json", sentence.format(file=file))


def test_a_command_for_a_container_never_runs_on_the_machine(engine: RealEngine, file: Path) -> None:
    """All forms in one test, to start the containers once. moby/moby#15604 is the same mistake elsewhere."""
    engine.run("web")

    for sentence in (*IN_THE_CONTAINER, *NOWHERE):
        done = asked(sentence, file)

        assert not file.exists(), sentence
        tools = [call["tool"] for call in done.json["calls"]]
        assert ON_THE_MACHINE not in tools, sentence
        if sentence in IN_THE_CONTAINER:
            assert tools == ["exec_in_container"], (sentence, done.json)
        else:
            ran = [call for call in done.json["calls"] if call["ok"]]
            assert not ran and done.code in (1, 2, 4), (sentence, done.json)


def test_an_ambiguous_command_is_refused_with_both_ways_to_write_it(engine: RealEngine, file: Path) -> None:
    engine.run("web")

    refused = asked("execute web touch {file} on local", file).json["error"]

    assert refused["code"] == "not_understood" and "not clear where" in refused["message"]
    assert "exec in NAME" in refused["hint"] and "run command COMMAND on HOST" in refused["hint"]


def test_a_named_machine_runs_the_command(engine: RealEngine, file: Path) -> None:
    engine.run("web")

    for sentence in (
        "run command touch {file} on local",
        "execute touch {file} on the machine",
        "on local execute touch {file}",
        "run command `touch {file}` on local",
        "run command `sh -c 'touch {file}; echo in web'` on local",
    ):
        done = asked(sentence, file)

        assert done.code == 0 and file.exists(), (sentence, done.json)
        file.unlink()


def test_the_output_comes_from_the_container(engine: RealEngine) -> None:
    inside = engine.run("web")[:12]

    done = anvyl("ask", "--offline", "--yes", "--json", "docker exec web cat /etc/hostname")

    [call] = done.json["calls"]
    assert call["result"]["stdout"].strip() == inside
