"""Commands that call a tool by name and list all tools."""

from __future__ import annotations

from typing import Annotated

import typer

from anvyl_mcp.cli.parser.options import HostOption, JsonOption, YesOption


def call(
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="Name of a tool; `anvyl tools` lists them.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Arguments; a word without `=` is the next required argument."),
    ] = None,
    host: HostOption = "",
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Call a tool by its name."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.call(tool, arguments or [], host=host, as_json=as_json, yes=yes)


def tools(as_json: JsonOption = False) -> None:
    """List all tools with their arguments."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.list_catalogue(as_json=as_json)
