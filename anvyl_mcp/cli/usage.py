"""Words that are no command or no option here: what was wrong with them, and what to type instead."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import typer

UsageError: Any = typer.BadParameter.__mro__[1]

INSTEAD = {
    "kill": "stop it without waiting: anvyl stop --timeout 0 NAME",
    "status": "anvyl hosts check for the hosts, anvyl ps for containers, anvyl watch --once for what is wrong",
    "list": "anvyl ps lists containers, anvyl hosts list the hosts",
    "containers": "anvyl ps lists containers",
    "image": "anvyl images lists them, anvyl pull fetches one, anvyl call remove_image removes one",
    "rmi": "anvyl call remove_image IMAGE",
    "network": "anvyl call list_networks; anvyl tools lists what else there is for networks",
    "volume": "anvyl call list_volumes; anvyl tools lists what else there is for volumes",
    "system": "anvyl df, or anvyl call prune_unused containers",
    "prune": "anvyl call prune_unused containers; also images, networks or volumes",
    "create": "anvyl run IMAGE creates a container and starts it",
    "pause": "anvyl stop NAME stops it; nothing here pauses one",
    "shell": "anvyl exec NAME COMMAND runs one command; anvyl exec -it NAME says how to get a shell",
    "ssh": "anvyl exec NAME COMMAND runs one command; anvyl exec -it NAME says how to get a shell",
    "serve": "anvyl-mcp serve",
    "gateway": "anvyl-mcp gateway",
    "install": "anvyl-mcp install",
    "invite": "anvyl-mcp invite",
    "token": "anvyl-mcp token",
    "audit": "anvyl-mcp audit",
}
"""What people type who know Docker, or who mean the other program, and what to type here."""
ALIKE = 0.7
_QUOTED = re.compile(r"'([^']*)'")


class Misused(UsageError):  # type: ignore[misc]  # typer keeps the class to itself
    """A mistake in what was typed, told as every other error is."""

    def __init__(self, message: str, hint: str, context: Any = None) -> None:
        super().__init__(message, context)
        self.hint = hint

    def show(self, file: Any = None) -> None:
        """Print the error and the next step."""
        from anvyl_mcp.cli import output

        output.talk(f"error: {self.message}")
        output.talk(f"hint:  {self.hint}")


@contextmanager
def told() -> Iterator[None]:
    """Around reading a command line: its mistakes in our own form. A command that shows its help instead is none."""
    try:
        yield
    except UsageError as error:
        if isinstance(error, Misused) or type(error).show is not UsageError.show:
            raise
        raise Misused(sentence(error), hint_of(error), error.ctx) from error


def sentence(error: Any) -> str:
    """What is wrong, in lower case, with names in backticks: ``missing argument `CONTAINER` ``."""
    words = error.format_message().removeprefix("Invalid value: ").removesuffix(".")
    words = _QUOTED.sub(r"`\1`", words)
    words = re.sub(r"^(No such option): (\S+).*", r"\1 `\2`", words)
    return f"{words[:1].lower()}{words[1:]}" if words[:2].istitle() else words


def hint_of(error: Any) -> str:
    """What to type instead, or how the command is typed."""
    if near := getattr(error, "possibilities", None):
        return f"did you mean {' or '.join(f'`{name}`' for name in sorted(near))}?"
    if error.ctx is None:
        return "--help says more"
    usage = error.ctx.get_usage().partition(":")[2]
    return f"type it like {' '.join(usage.split())}; {error.ctx.command_path} --help says more"


def unknown(program: str, words: Sequence[str], commands: Iterable[str]) -> Misused:
    """The error for a command that there is not."""
    typed, known = words[0], list(commands)
    if " " in typed.strip() or (len(words) > 2 and not any(word.startswith("-") for word in words)):
        question = typed if " " in typed.strip() else " ".join(words)
        return Misused(f"`{typed}` is not a command", f"to ask in plain words, type anvyl ask {shlex.quote(question)}")
    if program == "anvyl-mcp" and typed in _of_the_other_program():
        return Misused(f"`{typed}` is a command of `anvyl`", f"type anvyl {shlex.join(words)}")
    if typed in INSTEAD and program == "anvyl":
        return Misused(f"there is no command `{typed}`", INSTEAD[typed])
    near = get_close_matches(typed.lower(), known, n=3, cutoff=ALIKE)
    if not near:
        return Misused(f"there is no command `{typed}`", f"{program} --help lists them")
    return Misused(f"there is no command `{typed}`", f"did you mean {', '.join(f'`{name}`' for name in near)}?")


def _of_the_other_program() -> set[str]:
    from anvyl_mcp.cli.operator import COMMANDS

    return {name for commands in COMMANDS.values() for name in commands}
