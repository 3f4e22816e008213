"""The engines of the test support work as documented."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from tests.support.engine.engines import RealEngine

THIS = Path(__file__)


def test_the_two_engines_are_different_engines(engine: RealEngine, second_engine: RealEngine) -> None:
    assert engine.api.info()["ID"] != second_engine.api.info()["ID"]


def test_a_container_on_one_engine_is_not_on_the_other(engine: RealEngine, second_engine: RealEngine) -> None:
    engine.run("only-here")

    assert engine.state("only-here") == "running"
    assert second_engine.state("only-here") is None


@pytest.mark.parametrize("turn", ["first", "second"])
def test_a_container_that_a_test_leaves_is_gone_for_the_next(engine: RealEngine, turn: str) -> None:
    assert engine.state("left-behind") is None

    engine.run("left-behind")


def test_the_web_image_keeps_running_without_a_command_and_stops_immediately(engine: RealEngine) -> None:
    created = engine.api.create_container("anvyl-test/web:1", name="by-itself")
    engine.api.start(created)
    assert engine.state("by-itself") == "running"

    engine.api.stop(created)

    assert engine.api.inspect_container(created)["State"]["ExitCode"] == 0


def test_containers_stop_with_the_engine_and_are_kept_after_a_restart(second_engine: RealEngine) -> None:
    second_engine.run("survivor")

    second_engine.stop()
    assert not second_engine.answers
    second_engine.start()

    assert second_engine.state("survivor") == "exited"


def test_a_killed_engine_starts_again(second_engine: RealEngine) -> None:
    second_engine.run("survivor")

    second_engine.kill()
    second_engine.start()

    assert second_engine.state("survivor") == "exited"


def test_the_environment_of_a_test_points_to_its_engine(engine: RealEngine) -> None:
    client = docker.from_env()

    assert client.info()["ID"] == engine.api.info()["ID"]
    client.close()


def test_the_environment_of_a_test_without_an_engine_points_to_none(tmp_path: Path) -> None:
    assert os.environ["ANVYL_HOME"] == str(tmp_path)
    assert not Path(os.environ["DOCKER_HOST"].removeprefix("unix://")).exists()


@pytest.mark.parametrize(("ci", "exit_code"), [("", 0), ("true", 1)])
def test_a_test_without_its_engine_or_program_is_skipped_loudly_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, exit_code: int
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "/nonexistent")
    tests = THIS.parent.parent
    verified = tests / "app" / "service" / "test_service_files.py"
    selected = "on_one_engine or systemd_accepts"

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-rsf", "-p", "no:xdist", str(THIS), str(verified), "-k", selected],
        cwd=tests,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == exit_code, run.stdout + run.stderr
    assert ("TESTS ON A REAL DOCKER ENGINE WERE SKIPPED" in run.stdout) == (not ci)
    assert "no Docker engine answers at unix:///nonexistent/docker.sock" in run.stdout
    assert "systemd-analyze is not installed" in run.stdout
    if ci:
        assert re.search(r"\d (?:passed|skipped)", run.stdout) is None
