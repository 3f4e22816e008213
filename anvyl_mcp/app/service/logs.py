"""The log of the service, as its manager keeps it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

import anyio

from anvyl_mcp.app.service import programs
from anvyl_mcp.app.service.manager import ServiceManager
from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, InvalidInput, NotFound

LOGGED = re.compile(r"^(?:\S+ \S+ \S+\[\d+\]: )?(error|hint): +(.+)")


def read_lines(manager: ServiceManager, lines: int, since: str) -> list[str]:
    """Return the last lines.

    Raises:
        AnvylError: the log cannot be read.
    """
    command = _command(manager, lines, since, follow=False)
    done = programs.run(command, environment=manager.log_environment())
    if done.code:
        raise AnvylError(f"the log of the service cannot be read: {done.last_words}", hint=_hint(manager))
    return [text.one_line(line) for line in done.out.splitlines()]


def size(manager: ServiceManager) -> int:
    """Return the bytes of the log file; 0 if there is none."""
    try:
        return manager.log.stat().st_size if manager.log else 0
    except OSError:
        return 0


def lines_after(manager: ServiceManager, start: int) -> list[str]:
    """Return what the server wrote to the log file after its first `start` bytes."""
    try:
        content = manager.log.read_bytes()[start:] if manager.log else b""
    except OSError:
        return []
    return content.decode(errors="replace").splitlines()


def last_error(lines: Sequence[str]) -> tuple[str, str]:
    """Return the last error that the server logged, and its hint; both empty if there is none.

    A line may begin with what a journal puts before it: time, machine, process.
    """
    message = hint = ""
    for line in lines:
        if found := LOGGED.search(line):
            message, hint = (found[2], "") if found[1] == "error" else (message, found[2])
    return text.one_line(message), text.one_line(hint)


async def show(manager: ServiceManager, lines: int, since: str, *, follow: bool) -> None:
    """Print the log as it is read; with `follow`, until cancelled.

    Raises:
        AnvylError: it cannot be read; the program that reads it has printed why.
    """
    command = _command(manager, lines, since, follow=follow)
    environment = {**os.environ, **manager.log_environment()}
    try:
        async with await anyio.open_process(command, stdin=None, stdout=None, stderr=None, env=environment) as process:
            try:
                code = await process.wait()
            except anyio.get_cancelled_exc_class():
                process.terminate()
                raise
    except FileNotFoundError as error:
        raise NotFound(f"`{command[0]}` is not installed", hint=_hint(manager)) from error
    if code:
        raise AnvylError(f"the log of the service cannot be read: `{command[0]}` failed", hint=_hint(manager))


def _command(manager: ServiceManager, lines: int, since: str, *, follow: bool) -> list[str]:
    command = manager.log_command(lines, since, follow=follow)
    if since and command[0] != "journalctl":
        raise InvalidInput(f"the log of the {manager.name} has no times to choose by", hint="use --tail")
    sys.stdout.flush()
    return command


def _hint(manager: ServiceManager) -> str:
    if manager.scope == "system" and os.geteuid() != 0:
        return "try it with sudo"
    return "is the service installed? anvyl-mcp service status"
