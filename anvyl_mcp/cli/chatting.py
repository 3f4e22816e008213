"""`anvyl chat`, as it is typed."""

from __future__ import annotations

from typing import Annotated

import typer

from anvyl_mcp.cli.options import Host, Yes


def chat(
    conversation: Annotated[str, typer.Argument(metavar="ID", help="With --resume: which conversation.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the last conversation, or with ID.")] = False,
    host: Host = "",
    yes: Yes = False,
    model: Annotated[str, typer.Option("--model", "-m", help="A model of the model server.")] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Use the rules, no language model.")] = False,
) -> None:
    """Talk with the fleet: questions that know those before them.

    /help lists commands. Without a terminal every line of the input is a question or a command, and changes wait.
    """
    from anvyl_mcp.cli.chat import converse

    if conversation and not resume:
        raise typer.BadParameter("a conversation is gone on with: anvyl chat --resume ID")
    converse(host=host, yes=yes, model=model, offline=offline, resume=conversation if resume else None)
