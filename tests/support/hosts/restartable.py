"""A server that tests kill and restart many times, and a check that its files stay consistent.

Each start forks the real `anvyl-mcp serve` from a process that has already imported it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from anvyl_mcp.core import serve_lock
from anvyl_mcp.server.audit.log import Audit
from anvyl_mcp.server.calls.journal import FILE
from tests.support.hosts.nodes import READY_SECONDS

FORK_SERVER = """
import os, sys
import anvyl_mcp.app.node
from anvyl_mcp.cli.programs import host
from anvyl_mcp.server.calls import changes
from anvyl_mcp.server.http import app, listener
from anvyl_mcp.server.protocol import server
from anvyl_mcp.server.toolsets import load_tools

load_tools()
while sys.stdin.readline():
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        host.main()
        os._exit(0)
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class RestartableServer:
    """One server at a time, always with the same home."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        arguments = ["serve", "--name", "here", "--port", "0", "--agent-port", "0"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORK_SERVER, *arguments],
            env={**os.environ, **environment, "ANVYL_HOME": str(home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._in, self._out, self._err = self._process.stdin, self._process.stdout, self._process.stderr
        self.pid = 0
        self.stderr_lines: list[str] = []
        """Lines on standard error other than the one that announces the URL."""

    def start(self) -> str:
        """Start a server and return its URL when it is ready."""
        self._in.write(b"\n")
        self._in.flush()
        self.pid = int(self._out.readline())
        while True:
            ready, _, _ = select.select([self._err], [], [], READY_SECONDS)
            line = self._err.readline().decode() if ready else ""
            if " at http://" in line:
                return line.split(" at ")[1].split()[0]
            assert line, self.stderr_lines
            self.stderr_lines.append(line)

    @property
    def token(self) -> str:
        """Local token of the running server, with every scope."""
        return serve_lock.read_local_token(self.home / "run")

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal the server and return its exit code."""
        os.kill(self.pid, number)
        code = int(self._out.readline())
        self.pid = 0
        return code

    def close(self) -> None:
        """Kill the server, if it still runs, and the forking process."""
        if self.pid:
            with suppress(ProcessLookupError):
                self.end()
        self._process.kill()
        self._process.wait()
        self._in.close()
        self._out.close()
        self._err.close()


@contextmanager
def restartable_server(home: Path, **environment: str) -> Iterator[RestartableServer]:
    """Run a `RestartableServer` and close it afterwards."""
    server = RestartableServer(home, environment)
    try:
        yield server
    finally:
        server.close()


def assert_consistent(home: Path) -> None:
    """Check audit log and journal: no torn lines, none missing, each operation started once and ended at most once."""
    with closing(Audit(home / "audit")) as audit:
        verified = audit.verify()
        # SIGKILL can end a write at a page boundary: the next start sets the torn line aside, and says so.
        torn = [note for note in verified.notes if "damaged bytes at the end" in note]
        assert verified.problem == ""
        assert list(verified.notes) == torn, verified.notes
    lines = (home / "audit" / "audit.jsonl").read_text(encoding="utf-8").splitlines()
    begun, ended = dict[str, int](), dict[str, int]()
    for record in map(json.loads, lines):
        if record["outcome"] == "started":
            begun[record["operation"]] = begun.get(record["operation"], 0) + 1
        elif record["started"]:
            ended[record["operation"]] = ended.get(record["operation"], 0) + 1
    assert set(begun.values()) <= {1} and set(ended.values()) <= {1} and set(ended) <= set(begun)
    with closing(sqlite3.connect(home / "operations" / FILE)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    aside = [file for folder in ("audit", "operations") for file in (home / folder).iterdir() if ".bad" in file.name]
    assert len(aside) == len(torn), (aside, torn)
