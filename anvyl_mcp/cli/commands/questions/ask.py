"""The `anvyl ask` command line."""

from __future__ import annotations

from typing import Annotated

import typer

from anvyl_mcp.cli.parser.options import HostOption, JsonOption, YesOption


def ask(
    question: Annotated[
        list[str], typer.Argument(metavar="QUESTION", help='For example "list all containers" or "stop web on nas".')
    ],
    host: HostOption = "",
    yes: YesOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, without changing anything.")
    ] = False,
    as_json: JsonOption = False,
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="The model that answers.")] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Answer by rules, without a language model.")] = False,
) -> None:
    """Ask a question or request a change, in plain words."""
    from anvyl_mcp.cli.conversation.ask_session import ask_once

    ask_once(" ".join(question), host=host, yes=yes, dry_run=dry_run, as_json=as_json, model=model, offline=offline)
