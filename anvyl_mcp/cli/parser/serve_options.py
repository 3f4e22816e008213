"""The options of `anvyl-mcp serve`, which `anvyl-mcp service install` has too."""

from __future__ import annotations

from typing import Annotated

import typer

Toolsets = typer.Option(metavar="NAMES", help="Toolsets to offer, like networks,system or all.")
Tools = typer.Option(metavar="NAMES", help="Single tools to offer as well.")

HostAddress = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Network address to listen on, over TLS.")]
Port = Annotated[int | None, typer.Option(metavar="PORT", help="Port for MCP clients.  [default: 4200]")]
AgentPort = Annotated[int | None, typer.Option(metavar="PORT", help="Port for agent clients.  [default: 4201]")]
HostName = Annotated[str | None, typer.Option(metavar="NAME", help="Name of this host.")]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Offer only tools that change nothing.")]
Watch = Annotated[bool, typer.Option("--watch", help="Also watch the hosts and report problems.")]
Announce = Annotated[bool, typer.Option("--announce", help="Announce this host on the local network (mDNS).")]


def serve_flags(
    *,
    host: str | None,
    port: int | None,
    agent_port: int | None,
    name: str | None,
    toolsets: str | None,
    tools: str | None,
    **switches: bool,
) -> dict[str, str | int | bool | None]:
    """Return the given options as flags of the settings; None for those that were not given."""
    flags: dict[str, str | int | bool | None] = {"host": host, "port": port, "agent_port": agent_port, "name": name}
    flags |= {"toolsets": toolsets, "tools": tools}
    return {**flags, **{switch: on or None for switch, on in switches.items()}}
