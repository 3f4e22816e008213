"""Commands about containers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anvyl_mcp.cli.options import Host, Json, Name, Yes


def ps(
    all_: Annotated[bool, typer.Option("--all", "-a", help="Stopped ones too.")] = False,
    name: Annotated[str, typer.Option(help="Part of the name.")] = "",
    label: Annotated[str, typer.Option(help="key or key=value.")] = "",
    host: Host = "",
    as_json: Json = False,
) -> None:
    """List containers on every host."""
    from anvyl_mcp.cli import direct

    arguments: dict[str, Any] = {"all": all_, "name": name, "label": label, "limit": 1000}
    direct.call("list_containers", arguments, host=host, as_json=as_json)


def start(name: Name, host: Host = "", yes: Yes = False, as_json: Json = False) -> None:
    """Start a container, on the host that has it."""
    from anvyl_mcp.cli import direct

    direct.call("start_container", {"name": name}, host=host, as_json=as_json, yes=yes)


def stop(
    name: Name,
    host: Host = "",
    timeout: Annotated[int, typer.Option(help="Seconds to stop by itself.")] = 10,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Stop a container, on the host that has it."""
    from anvyl_mcp.cli import direct

    direct.call("stop_container", {"name": name, "timeout": timeout}, host=host, as_json=as_json, yes=yes)


def restart(name: Name, host: Host = "", yes: Yes = False, as_json: Json = False) -> None:
    """Restart a container, on the host that has it."""
    from anvyl_mcp.cli import direct

    direct.call("restart_container", {"name": name}, host=host, as_json=as_json, yes=yes)
