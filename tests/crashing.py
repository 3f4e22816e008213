"""A server to kill again and again: the real `anvyl-mcp serve`, forked from a process that has imported it already."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.nodes import READY_SECONDS

FORKING = """
import os, sys
import anvyl_mcp.app
from anvyl_mcp.cli import host
from anvyl_mcp.server import changes, http, mcp_server, serving
from anvyl_mcp.server.tool import load_tools

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


class Crashing:
    """One server at a time, always with the same home."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        arguments = ["serve", "--name", "here", "--port", "0", "--agent-port", "0"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKING, *arguments],
            env={**os.environ, **environment, "ANVYL_HOME": str(home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._in, self._out, self._err = self._process.stdin, self._process.stdout, self._process.stderr
        self.pid = 0
        self.said: list[str] = []
        """What the servers said besides that they are ready."""

    def start(self) -> str:
        """The URL of a server that is ready."""
        self._in.write(b"\n")
        self._in.flush()
        self.pid = int(self._out.readline())
        while True:
            ready, _, _ = select.select([self._err], [], [], READY_SECONDS)
            line = self._err.readline().decode() if ready else ""
            if " at http://" in line:
                return line.split(" at ")[1].split()[0]
            assert line, self.said
            self.said.append(line)

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """End the server; its exit code."""
        os.kill(self.pid, number)
        code = int(self._out.readline())
        self.pid = 0
        return code

    def close(self) -> None:
        """End everything."""
        if self.pid:
            self.end()
        self._in.close()
        self._process.wait(10)
        self._out.close()
        self._err.close()


@contextmanager
def crashing(home: Path, **environment: str) -> Iterator[Crashing]:
    """A server to kill, for as long as a test needs it."""
    server = Crashing(home, environment)
    try:
        yield server
    finally:
        server.close()
