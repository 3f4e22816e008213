"""Commands about existing containers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anvyl_mcp.cli.parser.options import ContainersArgument, HostOption, JsonOption, YesOption

SomeNames = Annotated[
    list[str] | None, typer.Argument(metavar="CONTAINER", help="Names or IDs of containers; all if omitted.")
]


def ps(
    all_: Annotated[bool, typer.Option("--all", "-a", help="Include stopped containers.")] = False,
    name: Annotated[str, typer.Option(metavar="TEXT", help="Only names that contain TEXT.")] = "",
    label: Annotated[
        str, typer.Option(metavar="LABEL", help="Only containers with this label: KEY or KEY=VALUE.")
    ] = "",
    host: HostOption = "",
    as_json: JsonOption = False,
) -> None:
    """List containers on every host."""
    from anvyl_mcp.cli.runtime import tool_command

    arguments: dict[str, Any] = {"all": all_, "name": name, "label": label, "limit": 1000}
    tool_command.call("list_containers", arguments, host=host, as_json=as_json)


def info(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONTAINER", help="Names or IDs of containers; the hosts if omitted."),
    ] = None,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show environment values that look like secrets.")] = False,
    host: HostOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show details of containers, or of the hosts."""
    from anvyl_mcp.cli.runtime import tool_command

    if names:
        tool_command.call_for_each("get_container_info", names, {"reveal": reveal}, host=host, as_json=as_json)
    tool_command.call("get_host_info", {}, host=host, as_json=as_json)


def logs(
    names: ContainersArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show new lines until Ctrl-C, even after a restart.")
    ] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", metavar="LINES", help="Number of most recent lines.")] = 100,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Only lines since then, like 10m or 2026-11-23T10:00:00Z.")
    ] = "",
    grep: Annotated[str, typer.Option(metavar="TEXT", help="Only lines that contain TEXT.")] = "",
    host: HostOption = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document; with -f, one for each line.")
    ] = False,
) -> None:
    """Show the last log lines of containers; -f follows them.

    With several containers, each line starts with its host and container.
    """
    from anvyl_mcp.cli.commands.containers.logs import print_logs

    print_logs(names, follow=follow, tail=tail, since=since, grep=grep, host=host, as_json=as_json)


def stats(
    names: SomeNames = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Update until Ctrl-C.")] = False,
    host: HostOption = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document; with --watch, one for each update.")
    ] = False,
) -> None:
    """Show resource usage of running containers, busiest first."""
    from anvyl_mcp.cli.commands.containers.stats import show_stats

    show_stats(names or [], watch=watch, host=host, as_json=as_json)


def start(
    names: ContainersArgument, host: HostOption = "", yes: YesOption = False, as_json: JsonOption = False
) -> None:
    """Start containers on the hosts that have them."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.call_for_each("start_container", names, {}, host=host, as_json=as_json, yes=yes)


def stop(
    names: ContainersArgument,
    host: HostOption = "",
    timeout: Annotated[
        int, typer.Option("--timeout", "-t", metavar="SECONDS", help="How long to wait before it is killed.")
    ] = 10,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Stop containers on the hosts that have them."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.call_for_each("stop_container", names, {"timeout": timeout}, host=host, as_json=as_json, yes=yes)


def restart(
    names: ContainersArgument, host: HostOption = "", yes: YesOption = False, as_json: JsonOption = False
) -> None:
    """Restart containers on the hosts that have them."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.call_for_each("restart_container", names, {}, host=host, as_json=as_json, yes=yes)


def rm(
    names: ContainersArgument,
    force: Annotated[bool, typer.Option("--force", "-f", help="Remove running containers too.")] = False,
    host: HostOption = "",
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove containers, after asking."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.call_for_each("remove_container", names, {"force": force}, host=host, as_json=as_json, yes=yes)
