"""Runs Docker Compose against this host's engine: with a time limit, progress and cancellation, and without a shell."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Cancelled, EngineMissing, Timeout
from anvyl_mcp.core.redaction.redact_text import redact_text
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.engine_errors import brief
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.stacks.compose_binary import find_compose

GRACE_SECONDS = 10.0
"""Seconds for Compose to stop what it is doing before it is killed."""
POLL_SECONDS = 0.2
MAX_OUTPUT_BYTES = 4 * 1024**2
"""Bytes kept of each output stream."""
MAX_MESSAGE = 400
PASSED_VARIABLES = ("PATH", "HOME", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "SSL_CERT_FILE", "TZ")
"""Variables passed on: the user's registry logins and engine certificates. Nothing else may be interpolated."""
SETTINGS = {
    "COMPOSE_ANSI": "never",
    "COMPOSE_DISABLE_ENV_FILE": "true",
    "COMPOSE_MENU": "false",
    "DOCKER_CLI_HINTS": "false",
}
STEP = re.compile(r"\s*(?:\[\+\].*|(Container|Network|Volume|Image)\s+(\S+)\s+(\w.*?))\s*")
"""A line of progress: ` Container shop-web-1  Creating`."""
MISSING_VARIABLE = re.compile(r"error while interpolating (\S+): required variable (\S+) is missing a value:?\s*(.*)")
WARNING = re.compile(r"level=warning msg=(.*)")
NOISE = re.compile(r"""^(?:time="[^"]*" level=\w+ msg=|Error response from daemon: |error: )""", re.IGNORECASE)
ENGINE_GONE = re.compile(
    r"cannot connect to the docker daemon|connection refused|no such file or directory.*\.sock", re.I
)


@dataclass(frozen=True, slots=True)
class ComposeOutput:
    """What a successful run printed."""

    stdout: str
    warnings: tuple[str, ...] = ()


class ComposeFailed(AnvylError):
    """Compose ended with an error; `message` is its reason."""


@dataclass(frozen=True, slots=True)
class Compose:
    """Docker Compose for one project. `folder`: its project directory; `files`: its Compose files."""

    engine: Engine
    project: str
    folder: Path
    files: Sequence[str] = ()
    env_files: Sequence[str] = ()
    profiles: Sequence[str] = ()

    def run(
        self,
        *arguments: str,
        seconds: float,
        stdin: str = "",
        progress: Progress | None = None,
        doing: str = "",
    ) -> ComposeOutput:
        """Run one command, like `up -d`. `doing` describes it for errors and progress: `deploying shop`.

        Raises:
            AnvylError: Compose is not installed, or too old.
            ComposeFailed: it failed.
            Timeout: it did not end in time, and was stopped.
            Cancelled: the caller cancelled, and it was stopped.
        """
        words = [str(find_compose().path), *self._options(), *arguments]
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=self._environment(),
            start_new_session=True,
        )
        reader = _OutputReader(process, stdin.encode(), progress or Progress())
        with _ended(process):
            reader.read(seconds, doing or f"{arguments[0]} of {self.project}")
        stdout, stderr = (stream.decode("utf-8", "replace") for stream in (reader.stdout, reader.stderr))
        if process.returncode:
            raise _failure(stderr, process.returncode)
        return ComposeOutput(stdout, tuple(_warnings(stderr)))

    def _options(self) -> Iterator[str]:
        yield from ("--ansi", "never", "--progress", "plain", "--project-name", self.project)
        yield from ("--project-directory", str(self.folder))
        for option, values in (("--file", self.files), ("--env-file", self.env_files), ("--profile", self.profiles)):
            for value in values:
                yield from (option, value)

    def _environment(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
        endpoint = self.engine.endpoint
        if endpoint.tls and endpoint.origin != "DOCKER_HOST":
            # The certificates are those of a context, which Compose finds by its name.
            return {
                **passed,
                **SETTINGS,
                "DOCKER_CONTEXT": endpoint.origin.rpartition("the Docker context ")[2].strip("`"),
            }
        return {**passed, **SETTINGS, "DOCKER_HOST": endpoint.url}


class _OutputReader:
    """Reads both output streams, reports steps as progress, and ends the process at the limit or when cancelled."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes, progress: Progress) -> None:
        self._process, self._stdin, self._progress = process, stdin, progress
        self.stdout, self.stderr = bytearray(), bytearray()
        self._unread_line, self._steps = b"", 0
        self._last_step = ""

    def read(self, seconds: float, doing: str) -> None:
        deadline = time.monotonic() + seconds
        for _ in self._ready_streams():
            if self._progress.cancelled:
                _end_group(self._process)
                raise Cancelled(f"{doing} was cancelled{self._last_words()}", hint="check what it left behind")
            if time.monotonic() > deadline:
                _end_group(self._process)
                raise Timeout(
                    f"{doing} took longer than {text.format_duration(seconds)} and was stopped{self._last_words()}",
                    hint="it may have been done in part: check before you repeat it",
                )
        self._process.wait()

    def _last_words(self) -> str:
        return f", after: {self._last_step}" if self._last_step else ""

    def _ready_streams(self) -> Iterator[None]:
        """Move what can be read or written; yields at least every `POLL_SECONDS`, until both streams are closed."""
        process = self._process
        assert process.stdin and process.stdout and process.stderr
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ, self.stdout)
            waiting.register(process.stderr, selectors.EVENT_READ, self.stderr)
            if self._stdin:
                os.set_blocking(process.stdin.fileno(), False)
                waiting.register(process.stdin, selectors.EVENT_WRITE)
            else:
                process.stdin.close()
            while any(key.data is not None for key in waiting.get_map().values()):
                for key, _ in waiting.select(POLL_SECONDS):
                    if key.data is None:
                        self._write(waiting, process.stdin)
                    elif chunk := os.read(key.fd, 65536):
                        key.data.extend(chunk[: MAX_OUTPUT_BYTES - len(key.data)])
                        if key.data is self.stderr:
                            self._report(chunk)
                    else:
                        waiting.unregister(key.fileobj)
                yield

    def _write(self, waiting: selectors.BaseSelector, stdin: IO[bytes]) -> None:
        try:
            self._stdin = self._stdin[os.write(stdin.fileno(), self._stdin) :]
        except BrokenPipeError:
            self._stdin = b""
        if not self._stdin:
            waiting.unregister(stdin)
            with suppress(BrokenPipeError):
                stdin.close()

    def _report(self, chunk: bytes) -> None:
        *lines, self._unread_line = (self._unread_line + chunk).split(b"\n")
        self._unread_line = self._unread_line[-4096:]
        for line in lines:
            match = STEP.fullmatch(text.clean(line.decode("utf-8", "replace")))
            if match and match[2]:
                step = f"{match[1].lower()} {match[2]}: {match[3].lower()}"
                if step != self._last_step:
                    self._steps, self._last_step = self._steps + 1, step
                    self._progress(self._steps, None, step)


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the process whatever happens, and close its streams."""
    try:
        yield
    finally:
        if process.poll() is None:
            _end_group(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the process group, then kill what is left."""
    _signal(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _failure(stderr: str, code: int) -> AnvylError:
    """The last line of the output that is neither progress nor a warning is the reason."""
    reasons = [
        NOISE.sub("", line.strip())
        for line in text.clean(stderr).splitlines()
        if line.strip() and not STEP.fullmatch(line) and not WARNING.search(line)
    ]
    reason = reasons[-1].strip('"') if reasons else f"it ended with exit code {code}"
    reason = MISSING_VARIABLE.sub(r"\1 needs the variable `\2`, which is not set: \3", reason)
    reason = redact_text(brief(reason))[:MAX_MESSAGE]
    if ENGINE_GONE.search(reason):
        return EngineMissing(f"Docker Compose does not reach the engine: {reason}", hint="check that it is running")
    return ComposeFailed(reason)


def _warnings(stderr: str) -> Iterator[str]:
    for line in text.clean(stderr).splitlines():
        if match := WARNING.search(line):
            words = match[1].strip().strip('"').replace('\\"', "`").rstrip(".")
            yield redact_text(words)[:MAX_MESSAGE]
