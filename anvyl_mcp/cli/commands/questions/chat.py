"""The `anvyl chat` command line."""

from __future__ import annotations

from typing import Annotated

import typer

from anvyl_mcp.cli.parser.options import HostOption, YesOption


def chat(
    conversation: Annotated[
        str, typer.Argument(metavar="ID", help="With --resume: the conversation to continue.")
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the last conversation, or the one with this ID.")
    ] = False,
    host: HostOption = "",
    yes: YesOption = False,
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="The model that answers.")] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Answer by rules, without a language model.")] = False,
) -> None:
    """Chat: follow-up questions remember the earlier ones.

    Type /help for its commands. Without a terminal, each line of the input is a question or a command, and changes
    stay pending.
    """
    from anvyl_mcp.cli.conversation.chat_session import run_chat

    if conversation and not resume:
        raise typer.BadParameter("to continue a conversation, type anvyl chat --resume ID")
    run_chat(host=host, yes=yes, model=model, offline=offline, resume=conversation if resume else None)
