"""`anvyl ask`, as it is typed."""

from __future__ import annotations

from typing import Annotated

import typer

from anvyl_mcp.cli.options import Host, Json, Yes


def ask(
    question: Annotated[list[str], typer.Argument(help='Like "list all containers" or "stop web on nas".')],
    host: Host = "",
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    as_json: Json = False,
    model: Annotated[str, typer.Option("--model", "-m", help="A model of the model server.")] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Use the rules, no language model.")] = False,
) -> None:
    """Ask, or tell the fleet to do something, in plain words."""
    from anvyl_mcp.cli.ask import ask_once

    ask_once(" ".join(question), host=host, yes=yes, dry_run=dry_run, as_json=as_json, model=model, offline=offline)
