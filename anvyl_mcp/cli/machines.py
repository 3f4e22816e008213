"""Commands about the machines themselves."""

from __future__ import annotations

from anvyl_mcp.cli.options import Host, Json


def resources(host: Host = "", as_json: Json = False) -> None:
    """Show how busy and how full every host is."""
    from anvyl_mcp.cli import resources as command

    command.resources(host=host, as_json=as_json)
