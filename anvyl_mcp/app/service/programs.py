"""Run programs of the system, such as systemctl, with errors for a person."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, NotFound, Timeout

SECONDS = 120


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """Exit code and output of a program."""

    code: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The last line that it printed."""
        lines = [line for line in (self.err or self.out).splitlines() if line.strip()]
        return text.one_line(lines[-1]) if lines else f"exit code {self.code}"


def run(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, seconds: int = SECONDS
) -> ProgramResult:
    """Run a program, whatever its exit code.

    Raises:
        NotFound: the program is not installed.
        Timeout: it does not end.
    """
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError as error:
        raise NotFound(
            f"`{command[0]}` is not installed", hint=f"install it, or run by hand: {shlex.join(command)}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise Timeout(f"`{shlex.join(command)}` took more than {seconds} s", hint="run it by hand") from error
    return ProgramResult(done.returncode, done.stdout, done.stderr)


def run_or_fail(command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> str:
    """Run a program and return its output.

    Raises:
        AnvylError: it failed.
    """
    done = run(command, environment=environment)
    if done.code:
        raise AnvylError(f"`{shlex.join(command)}` failed: {done.last_words}", hint="repeat it by hand to see more")
    return done.out
