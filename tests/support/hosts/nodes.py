"""Real nodes and commands: `anvyl-mcp serve` and `anvyl` as processes."""

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
class CommandResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, parsed as JSON."""
        document: dict[str, Any] = json.loads(self.out)
        return document


def anvyl(*arguments: str, **environment: str) -> CommandResult:
    """Run `anvyl` in this process with the test's environment, updated by `environment`."""
    done = CliRunner().invoke(operator.app, arguments, env=environment, catch_exceptions=False)
    return CommandResult(done.exit_code, done.stdout, done.stderr)


def run_program(
    *arguments: str,
    program: str = ANVYL,
    stdin: str | None = None,
    prefix: Sequence[str] = (),
    seconds: float = 120,
    **environment: str,
) -> CommandResult:
    """Run a program in a subprocess and wait for it."""
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
    return CommandResult(done.returncode, done.stdout, done.stderr)


class ServingNode:
    """An `anvyl-mcp serve` process with its own home, on free ports."""

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
        """Start the process and wait until it serves."""
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
        """Next line of its standard error; empty after `READY_SECONDS`."""
        assert self.process.stderr is not None
        ready, _, _ = select.select([self.process.stderr], [], [], READY_SECONDS)
        return self.process.stderr.readline().decode() if ready else ""

    @property
    def port(self) -> int:
        """Port that it listens on."""
        return int(self.url.rpartition(":")[2])

    @property
    def token(self) -> str:
        """Local token for commands of the same user; new after each start."""
        return serve_lock.read_local_token(self.home / "run")

    @property
    def headers(self) -> dict[str, str]:
        """Request headers of a client with every scope."""
        return {"Authorization": f"Bearer {self.token}"}

    def restart(self) -> None:
        """Kill it and start it again on the same port."""
        port = self.port
        self.kill()
        self.start(port)

    def suspend(self) -> None:
        """Suspend it (SIGSTOP) until `resume`."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume it (SIGCONT)."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Terminate it (SIGTERM) and return the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@contextlib.contextmanager
def running_node(
    name: str,
    home: Path,
    engine: RealEngine | None = None,
    prefix: Sequence[str] = (),
    port: int = 0,
    **environment: str,
) -> Iterator[ServingNode]:
    """Start a node, and kill it afterwards."""
    node = ServingNode(name, home, {**(engine.environment if engine else {}), **environment}, port, prefix)
    try:
        yield node
    finally:
        node.kill()


@pytest.fixture(scope="session")
def second_node(second_engine: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    """A node with the second engine; tests must leave it unchanged."""
    with running_node("second", tmp_path_factory.mktemp("second"), second_engine, ANVYL_LMSTUDIO_URL=NO_MODEL) as node:
        yield node


@pytest.fixture
def fleet(engine: RealEngine, second_node: ServingNode, monkeypatch: pytest.MonkeyPatch) -> ServingNode:
    """Make this host `first`, on the first engine, with `second` in its hosts file; returns the second node."""
    monkeypatch.setenv("ANVYL_NAME", "first")
    write_hosts_file("second", second_node.url, second_node.token)
    return second_node


def write_hosts_file(name: str, url: str, token: str = "") -> None:
    """Write a hosts file with one host; without a token its `exec` tools are denied to us."""
    file = Path(os.environ["ANVYL_HOME"]) / "hosts.toml"
    file.write_text(f'[hosts.{name}]\nurl = "{url}"\ntoken = "{token}"\n', encoding="utf-8")
    file.chmod(0o600)


NO_MODEL = "http://127.0.0.1:1/v1"
PYTHON = sys.executable
