"""Run commands in a container with limits on time and output, and kill them after the timeout if possible.

The engine's API can start a process in a container but not stop it. So the process is looked up on this machine by its
container and the process id that the engine reports, and killed with its children.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import psutil

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Cancelled, Conflict, NotFound
from anvyl_mcp.server.commands import MAX_OUTPUT_BYTES, CommandOutput
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.progress import Progress

POLL_SECONDS = 0.25
DRAIN_SECONDS = 2.0
"""How long to read the remaining output after the command was killed."""
EXIT_CODE_OF_TIMEOUT = 124
"""Exit code of a command that has none yet; the same as that of `timeout`."""
NOT_STARTED = re.compile(r"(?:Error: )?(?:OCI runtime exec failed|(?:\w+: )?exec failed)")
"""Start of the output when Docker or Podman cannot start the command."""
STDOUT, STDERR = 1, 2


class ExecOutput(CommandOutput):
    """Output of a command in a container; `note` says if it may still be running."""

    note: str = ""

    def text(self) -> str:
        """The output, then the note."""
        return "\n".join(part for part in (super().text(), self.note) if part)


class _OutputBuffer:
    """Collects the start of each output stream from the frames of the engine's stream."""

    def __init__(self) -> None:
        self.kept = {STDOUT: bytearray(), STDERR: bytearray()}
        self.truncated = False
        self._stream, self._left, self._head = STDOUT, 0, b""

    def feed(self, data: bytes) -> None:
        """Parse more data. A frame is the stream number, its length in bytes 4 to 8, then the payload."""
        while data:
            if self._left == 0:
                self._head, data = self._head + data[: 8 - len(self._head)], data[8 - len(self._head) :]
                if len(self._head) == 8:
                    self._stream, self._left = self._head[0], int.from_bytes(self._head[4:], "big")
                    self._head = b""
                continue
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            kept = self.kept.get(self._stream, self.kept[STDOUT])
            room = MAX_OUTPUT_BYTES - len(kept)
            kept += piece[:room]
            self.truncated = self.truncated or len(piece) > room

    def text_of(self, stream: int) -> str:
        """Text of one stream."""
        return text.clean(self.kept[stream].decode("utf-8", "replace"))


def run(
    engine: Engine, container: Mapping[str, Any], words: Sequence[str], *, seconds: float, progress: Progress
) -> ExecOutput:
    """Run one program in a container, for at most `seconds`.

    Raises:
        NotFound: the container has no such program.
        Conflict: the container is not running.
        Cancelled: the caller cancelled; the message says whether the command was killed.
    """
    name = container["Name"].lstrip("/")
    if not container["State"].get("Running"):
        raise Conflict(f"`{name}` is not running, so no command can be run in it", hint="start it first")
    client, output = engine.client(), _OutputBuffer()
    with engine_errors(doing=f"to run a command in `{name}`"):
        started = client.exec_create(container["Id"], list(words))["Id"]
        stream = client.exec_start(started, socket=True)
    try:
        with engine_errors():
            ended = _read_output(stream, output, time.monotonic() + seconds, progress)
            note = "" if ended else _kill(engine, container["Id"], started)
            if not (ended or note):
                _read_output(stream, output, time.monotonic() + DRAIN_SECONDS, Progress())
    finally:
        _close(stream)
    if not ended and progress.cancelled:
        raise Cancelled(f"the command in `{name}` was cancelled{f'; {note}' if note else ' and killed'}")
    return _result(engine, started, words, name, output, timed_out=not ended, note=note)


def _read_output(stream: Any, output: _OutputBuffer, deadline: float, progress: Progress) -> bool:
    """Read until the command closes its output; False on timeout or if the caller cancelled."""
    connection = cast("socket.socket", getattr(stream, "_sock", stream))
    while (left := deadline - time.monotonic()) > 0 and not progress.cancelled:
        connection.settimeout(min(left, POLL_SECONDS))
        try:
            data = connection.recv(65536)
        except TimeoutError:
            continue
        if not data:
            return True
        output.feed(data)
    return False


def _result(
    engine: Engine, started: str, words: Sequence[str], name: str, output: _OutputBuffer, *, timed_out: bool, note: str
) -> ExecOutput:
    with engine_errors():
        code = engine.client().exec_inspect(started).get("ExitCode")
    stdout = output.text_of(STDOUT)
    printed = stdout or output.text_of(STDERR)
    if code in (126, 127) and NOT_STARTED.match(printed):
        raise NotFound(
            f"`{words[0]}` cannot be run in `{name}`: {_failure_reason(printed)}", hint="check the program's name"
        )
    return ExecOutput(
        exit_code=EXIT_CODE_OF_TIMEOUT if code is None else code,
        stdout=stdout,
        stderr=output.text_of(STDERR),
        truncated=output.truncated,
        timed_out=timed_out,
        note=note,
    )


def _failure_reason(words: str) -> str:
    kept = re.split(r": unknown|: OCI runtime ", words.strip())[0]
    return kept.rpartition(": exec: ")[2][:200]


def _kill(engine: Engine, container: str, started: str) -> str:
    """Kill the command with its children; returns why it may still be running, or an empty string."""
    pid = engine.client().exec_inspect(started).get("Pid") or 0
    found = next(_processes(container, pid), None) if pid else None
    if found is None:
        return "the command may still be running in the container: its process is not visible from this host"
    try:
        with suppress(psutil.NoSuchProcess):
            family = [found, *found.children(recursive=True)]
            for process in family:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            psutil.wait_procs(family, DRAIN_SECONDS)
    except PermissionError:
        return "the command is still running in the container: this user may not kill its process"
    return ""


def _processes(container: str, pid: int) -> Iterator[psutil.Process]:
    """Processes of the container with this id; the engine may report the id in its own namespace."""
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error, AnvylError):
            folder = Path(f"/proc/{process.pid}")
            if container not in (folder / "cgroup").read_text(encoding="utf-8"):
                continue
            status = (folder / "status").read_text(encoding="utf-8", errors="replace")
            ids = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
            if str(pid) in ids[:-1]:
                yield process


def _close(stream: Any) -> None:
    """Close the connection and the response that the SDK attached to it."""
    for part in (getattr(stream, "_response", None), stream, getattr(stream, "_sock", None)):
        if part is not None:
            with suppress(OSError):
                part.close()
