"""A program that runs for each event, with the event as JSON on its standard input."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from subprocess import DEVNULL

import anyio

from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.core.text import clean
from anvyl_mcp.peers.notices.notice import Notice
from anvyl_mcp.peers.notices.services import DeliveryFailed

SECONDS = 10.0
FIELDS = ("event", "host", "kind", "message")
"""Fields of an event that are also environment variables."""


@dataclass(frozen=True, slots=True)
class CommandRecipient:
    """The program of the setting `watch_command`."""

    argv: tuple[str, ...]
    name: str = "command"
    takes_everything: bool = True

    @property
    def shown(self) -> str:
        """The program without its arguments."""
        return self.argv[0]

    async def send(self, notice: Notice) -> None:
        """Run the program.

        Raises:
            DeliveryFailed: it cannot be run, failed or took too long.
        """
        document = notice.as_dict()
        environment = {f"ANVYL_{name.upper()}": clean(str(document.get(name, ""))) for name in FIELDS}
        try:
            with anyio.fail_after(SECONDS):
                done = await anyio.run_process(
                    self.argv,
                    input=json.dumps(document).encode(),
                    stdout=DEVNULL,
                    stderr=DEVNULL,
                    check=False,
                    env={**os.environ, **environment},
                )
        except OSError as error:
            raise DeliveryFailed(f"it cannot be run: {error.strerror}", retry=False) from error
        except TimeoutError as error:
            raise DeliveryFailed(f"it was stopped after {SECONDS:g} s", retry=False) from error
        if done.returncode:
            raise DeliveryFailed(f"it ended with code {done.returncode}", retry=False)


def parse_command(line: str) -> CommandRecipient:
    """Parse a command line.

    Raises:
        InvalidInput: it cannot be parsed.
    """
    try:
        argv = shlex.split(line)
    except ValueError as error:
        raise InvalidInput(f"the command cannot be parsed: {str(error).lower()}", hint="check its quotes") from error
    if not argv:
        raise InvalidInput("the command is empty", hint="like --command 'notify-send Anvyl'")
    return CommandRecipient(tuple(argv))
