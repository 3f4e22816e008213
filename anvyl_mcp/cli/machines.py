"""Commands about the machines themselves."""

from __future__ import annotations

from typing import Annotated

import typer

from anvyl_mcp.cli.options import Host, Json


def resources(host: Host = "", as_json: Json = False) -> None:
    """Show how busy and how full every host is."""
    from anvyl_mcp.cli import resources as command

    command.resources(host=host, as_json=as_json)


def df(host: Host = "", as_json: Json = False) -> None:
    """Show what images, containers and volumes take up on disk."""
    from anvyl_mcp.cli import direct

    direct.call("get_disk_usage", {}, host=host, as_json=as_json)


def events(
    since: Annotated[str, typer.Option(metavar="TIME", help="How far back, like 10m or 2h.")] = "1h",
    host: Host = "",
    as_json: Json = False,
) -> None:
    """Show what happened to containers and images lately."""
    from anvyl_mcp.cli import direct

    direct.call("list_events", {"since": since}, host=host, as_json=as_json)
