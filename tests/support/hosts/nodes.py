"""Real nodes and real commands: `anvyl-mcp serve` and `anvyl` as the processes that people start."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from anvyl_mcp.cli.programs import operator
from anvyl_mcp.core import serve_lock
from tests.support.engine.engines import RealEngine

SCRIPTS = Path(sysconfig.get_path("scripts"))
ANVYL = str(SCRIPTS / "anvyl")
ANVYL_MCP = str(SCRIPTS / "anvyl-mcp")
READY_SECONDS = 30


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its one JSON document."""
        document: dict[str, Any] = json.loads(self.out)
        return document


def anvyl(*arguments: str, **environment: str) -> Ran:
    """Run `anvyl` in this process, in the test's environment changed by `environment`."""
    done = CliRunner().invoke(operator.app, arguments, env=environment, catch_exceptions=False)
    return Ran(done.exit_code, done.stdout, done.stderr)


def process(
    *arguments: str,
    program: str = ANVYL,
    stdin: str | None = None,
    prefix: Sequence[str] = (),
    seconds: float = 120,
    **environment: str,
) -> Ran:
    """Run a program to its end, as people do."""
    done = subprocess.run(
        [*prefix, program, *arguments],
        env={**os.environ, **environment},
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=seconds,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


class ServingNode:
    """One `anvyl-mcp serve` with a home of its own, on free ports."""

    def __init__(
        self, name: str, home: Path, environment: Mapping[str, str], port: int = 0, prefix: Sequence[str] = ()
    ) -> None:
        self._prefix = list(prefix)
        self.name = name
        self.home = home
        self._environment = {**environment, "ANVYL_HOME": str(home)}
        self.url = ""
        self.start(port)

    def start(self, port: int = 0) -> None:
        """Start it, and return when it serves."""
        self.process = subprocess.Popen(
            [*self._prefix, ANVYL_MCP, "serve", "--name", self.name, "--port", str(port), "--agent-port", str(port)],
            env={**os.environ, **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        line = self.line()
        assert " at http://" in line, line
        self.url = line.split(" at ")[1].split()[0]

    def line(self) -> str:
        """The next line that it prints; empty when none comes."""
        assert self.process.stderr is not None
        ready, _, _ = select.select([self.process.stderr], [], [], READY_SECONDS)
        return self.process.stderr.readline().decode() if ready else ""

    @property
    def port(self) -> int:
        """Where it serves."""
        return int(self.url.rpartition(":")[2])

    @property
    def token(self) -> str:
        """What commands of its own user send; another one after each start."""
        return serve_lock.local_token(self.home / "run")

    @property
    def headers(self) -> dict[str, str]:
        """What a client sends that has every right."""
        return {"Authorization": f"Bearer {self.token}"}

    def restart(self) -> None:
        """End it without a warning and start it again on the same port."""
        port = self.port
        self.kill()
        self.start(port)

    def suspend(self) -> None:
        """Leave it there, but let it do nothing, until `resume`."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a warning."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@contextlib.contextmanager
def serving(
    name: str,
    home: Path,
    engine: RealEngine | None = None,
    prefix: Sequence[str] = (),
    port: int = 0,
    **environment: str,
) -> Iterator[ServingNode]:
    """A node for as long as a test needs it."""
    node = ServingNode(name, home, {**(engine.environment if engine else {}), **environment}, port, prefix)
    try:
        yield node
    finally:
        node.kill()


@pytest.fixture(scope="session")
def second_node(second_engine: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    """A host of its own with the second engine, for tests that leave it as it was."""
    with serving("second", tmp_path_factory.mktemp("second"), second_engine, ANVYL_LMSTUDIO_URL=NO_MODEL) as node:
        yield node


@pytest.fixture
def fleet(engine: RealEngine, second_node: ServingNode, monkeypatch: pytest.MonkeyPatch) -> ServingNode:
    """This host, `first`, on the first engine and knowing `second`; the second node is returned."""
    monkeypatch.setenv("ANVYL_NAME", "first")
    know("second", second_node.url, second_node.token)
    return second_node


def know(name: str, url: str, token: str = "") -> None:
    """Write a hosts file with one host; without a token it gives us no `exec`."""
    file = Path(os.environ["ANVYL_HOME"]) / "hosts.toml"
    file.write_text(f'[hosts.{name}]\nurl = "{url}"\ntoken = "{token}"\n', encoding="utf-8")
    file.chmod(0o600)


NO_MODEL = "http://127.0.0.1:1/v1"
PYTHON = sys.executable
