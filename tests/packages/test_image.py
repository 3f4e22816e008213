"""The container image, built from the Dockerfile on a real engine and started by `examples/compose.yaml`."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sysconfig
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine.engines import RealEngine
from tests.support.engine.python_image import import_python_image
from tests.support.hosts.nodes import ANVYL, CommandResult, run_program
from tests.support.packages import ROOT, build_packages

IMAGE = "ghcr.io/anvyl-mcp/anvyl-mcp:latest"
COMPOSE = str(Path(sysconfig.get_path("scripts")) / "docker-compose")
ADDRESS = "172.17.0.1"
"""Of Docker's bridge, an address of the machine that is not loopback."""


@pytest.fixture(scope="module")
def image(engine: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image with the wheel of this clone, on a base of this machine's Python."""
    wheel = build_packages(tmp_path_factory.mktemp("dist")).wheel
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        tar.add(ROOT / "Dockerfile", "Dockerfile")
        tar.add(wheel, f"dist/{wheel.name}")
    base = import_python_image(engine)
    options = {"BASE": base, "SOURCE": f"dist/{wheel.name}", "EXTRAS": "", "PIP_OPTIONS": "--no-index --no-deps"}
    context.seek(0)
    said = list(
        engine.api.build(fileobj=context, custom_context=True, buildargs=options, tag=IMAGE, decode=True, rm=True)
    )
    assert not any("error" in line for line in said), said[-3:]
    yield IMAGE
    engine.clean()
    for name in (IMAGE, base):
        engine.api.remove_image(name, force=True)


class ComposeApplication:
    """`examples/compose.yaml` on the engine; only the path of the socket and the time between checks differ."""

    def __init__(self, engine: RealEngine, folder: Path) -> None:
        self._engine = engine
        socket = Path(engine.url.removeprefix("unix://"))
        change = {"volumes": [f"{socket}:/var/run/docker.sock"], "healthcheck": {"interval": "1s"}}
        (folder / "override.json").write_text(json.dumps({"services": {"anvyl": change}}), encoding="utf-8")
        self._files = ["-f", str(ROOT / "examples" / "compose.yaml"), "-f", str(folder / "override.json")]
        self._environment = {**os.environ, "DOCKER_GID": str(socket.stat().st_gid), "ANVYL_NAME": "boat"}
        # The library's entry point starts its binary.
        self._environment["DOCKER_HOST"] = engine.url

    def compose(self, *arguments: str) -> str:
        done = subprocess.run(
            [COMPOSE, "--project-name", "anvyl-image", *self._files, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def facts(self) -> dict[str, Any]:
        [one] = self._engine.api.containers(filters={"label": "com.docker.compose.service=anvyl"})
        found: dict[str, Any] = self._engine.api.inspect_container(one["Id"])
        return found

    def inside(self, *command: str) -> tuple[int, str]:
        made = self._engine.api.exec_create(self.facts()["Id"], list(command))
        printed: bytes = self._engine.api.exec_start(made["Id"])
        return int(self._engine.api.exec_inspect(made["Id"])["ExitCode"]), printed.decode()


@pytest.fixture
def application(engine: RealEngine, image: str, tmp_path: Path) -> Iterator[ComposeApplication]:
    made = ComposeApplication(engine, tmp_path)
    made.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", "60")
    yield made
    made.compose("down", "--volumes", "--timeout", "2")


def operator(engine: RealEngine, *arguments: str, stdin: str | None = None) -> CommandResult:
    prefix = ["nsenter", "--target", str(engine.process), "--net", "--"]
    return run_program(*arguments, program=ANVYL, prefix=prefix, stdin=stdin)


@pytest.mark.long
def test_a_host_in_a_container_is_paired_and_says_what_it_cannot_see(
    engine: RealEngine, application: ComposeApplication
) -> None:
    facts = application.facts()
    assert facts["HostConfig"]["ReadonlyRootfs"]
    assert facts["Config"]["User"] == "10001:10001"
    assert application.inside(*facts["Config"]["Healthcheck"]["Test"][1:]) == (0, "")

    code, printed = application.inside("anvyl-mcp", "invite", "--host", ADDRESS, "--scope", "exec", "--json")
    assert code == 0, printed
    joined = operator(engine, "hosts", "add", stdin=json.loads(printed)["code"])
    assert joined.code == 0, joined.err
    listed = operator(engine, "ps", "--host", "boat", "--json").json["hosts"]["boat"]["result"]["containers"]
    assert [one["image"] for one in listed] == [IMAGE]

    info = operator(engine, "call", "get_host_info", "--host", "boat", "--json").json["hosts"]["boat"]["result"]
    assert info["hostname"] == engine.api.info()["Name"]
    assert "the server runs in a container" in info["limits"]
    refused = operator(engine, "call", "execute_command", "command=id", "--host", "boat", "--yes")
    assert "runs in a container and cannot run commands on the machine" in refused.err
    unseen = operator(engine, "call", "list_processes", "--host", "boat")
    assert "does not see the processes of the machine" in unseen.err
    assert "the server runs in a container" in application.inside("anvyl", "doctor")[1]
    assert '"installed_by": "container"' in application.inside("anvyl-mcp", "upgrade", "--json")[1]

    application.compose("up", "--detach", "--no-build", "--force-recreate", "--wait", "--wait-timeout", "60")
    assert application.facts()["Id"] != facts["Id"]
    assert operator(engine, "ps", "--host", "boat").code == 0


def test_the_examples_are_valid_and_name_the_same_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project["urls"]["Repository"].removeprefix("https://github.com/")
    for file in ("compose.yaml", "compose.socket-proxy.yaml"):
        done = subprocess.run(
            [COMPOSE, "-f", ROOT / "examples" / file, "config", "--format", "json"],
            env={"PATH": os.environ["PATH"], "DOCKER_GID": "1", "ANVYL_NAME": "boat", "ANVYL_ADVERTISE": "10.0.0.2"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        service = json.loads(done.stdout)["services"]["anvyl"]
        assert service["image"] == f"ghcr.io/{repository}:latest" == IMAGE
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
