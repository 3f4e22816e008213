"""Commands about machines: resources, disk usage and events."""

from __future__ import annotations

from typing import Annotated

import typer

from anvyl_mcp.cli.parser.options import HostOption, JsonOption


def resources(host: HostOption = "", as_json: JsonOption = False) -> None:
    """Show CPU, memory and disk usage of every host."""
    from anvyl_mcp.cli.commands.containers.resources import print_resources

    print_resources(host=host, as_json=as_json)


def df(host: HostOption = "", as_json: JsonOption = False) -> None:
    """Show disk space used by images, containers and volumes."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.call("get_disk_usage", {}, host=host, as_json=as_json)


def events(
    since: Annotated[str, typer.Option(metavar="TIME", help="How far back to look, like 10m or 2h.")] = "1h",
    host: HostOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show recent events of containers and images."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.call("list_events", {"since": since}, host=host, as_json=as_json)
