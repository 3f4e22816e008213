"""Runs commands on the host: without a shell, in a process group, with limits on time and output."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from contextlib import suppress

import anyio
from anyio.abc import ByteReceiveStream, Process

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Denied, InvalidInput, NotFound
from anvyl_mcp.server.tool import Result

MAX_OUTPUT_BYTES = 64 * 1024
GRACE_SECONDS = 2
DRAIN_SECONDS = 0.5
PASSED_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "DOCKER_HOST")
"""Environment variables passed to commands; tokens and keys of Anvyl are not among them."""


class CommandOutput(Result):
    """Output and exit code of a command; 128 + the signal number if it was killed."""

    exit_code: int
    stdout: str
    stderr: str
    truncated: bool
    timed_out: bool

    def text(self) -> str:
        """The output, then notes on truncation, timeout or exit code."""
        parts = [self.stdout.rstrip("\n"), self.stderr.rstrip("\n")]
        if self.truncated:
            parts.append("… output cut")
        if self.timed_out:
            parts.append("stopped after the timeout")
        elif self.exit_code or not any(parts):
            parts.append(f"exit code {self.exit_code}")
        return "\n".join(part for part in parts if part)


class _CappedOutput:
    """Keeps the first `MAX_OUTPUT_BYTES` of a stream and discards the rest."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.truncated = False

    async def read(self, stream: ByteReceiveStream | None) -> None:
        if stream is None:
            return
        async for chunk in stream:
            room = MAX_OUTPUT_BYTES - len(self.data)
            self.data += chunk[:room]
            self.truncated = self.truncated or len(chunk) > room

    def __str__(self) -> str:
        return text.clean(self.data.decode("utf-8", "replace"))


def split(command: str) -> list[str]:
    """Split a command line into words like a shell, without expansion.

    Raises:
        InvalidInput: it is empty, or a quote is not closed.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidInput(f"`{command}` is not a command line: {error}", hint="close the quotes") from error
    if "\0" in command:
        raise InvalidInput("a command cannot contain a NUL character", hint="remove it")
    if not words:
        raise InvalidInput("the command is empty", hint="name the program to run")
    return words


async def run(words: list[str], *, seconds: float) -> CommandOutput:
    """Run a program for at most `seconds`, then end its whole process group.

    Raises:
        NotFound: there is no such program.
        Denied: the server may not run it.
    """
    process = await _start(words)
    stdout, stderr = _CappedOutput(), _CappedOutput()
    try:
        async with anyio.create_task_group() as readers:
            readers.start_soon(stdout.read, process.stdout)
            readers.start_soon(stderr.read, process.stderr)
            with anyio.move_on_after(seconds) as limit:
                await process.wait()
            await _end_group(process)
            # A child that left the group may keep the pipes open forever.
            readers.cancel_scope.deadline = anyio.current_time() + DRAIN_SECONDS
    finally:
        with anyio.CancelScope(shield=True):
            await _end_group(process)
            await process.aclose()
    code = process.returncode or 0
    return CommandOutput(
        exit_code=128 - code if code < 0 else code,
        stdout=str(stdout),
        stderr=str(stderr),
        truncated=stdout.truncated or stderr.truncated,
        timed_out=limit.cancelled_caught,
    )


async def _start(words: list[str]) -> Process:
    environment = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    try:
        return await anyio.open_process(words, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
    except FileNotFoundError as error:
        raise NotFound(f"there is no program `{words[0]}` on this host", hint="check its name") from error
    except PermissionError as error:
        raise Denied(
            f"no permission to run `{words[0]}` on this host", hint="check that it is an executable file"
        ) from error
    except (OSError, ValueError) as error:
        raise AnvylError(f"`{words[0]}` cannot be run: {error}", hint="check the command") from error


async def _end_group(process: Process) -> None:
    """Terminate the process group, then kill what is left."""
    _signal_group(process, signal.SIGTERM)
    with anyio.move_on_after(GRACE_SECONDS):
        await process.wait()
    _signal_group(process, signal.SIGKILL)
    await process.wait()


def _signal_group(process: Process, number: signal.Signals) -> None:
    """Signal the whole group, whose leader may have ended before its children."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
