"""`anvyl stack`: lists, deploys and changes Compose applications on one or several hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anvyl_mcp.cli.parser.command_groups import Commands
from anvyl_mcp.cli.parser.options import HostOption, JsonOption, YesOption

EXAMPLES = """\
anvyl stack ls
anvyl stack up compose.yaml --host nas
anvyl stack revert immich
"""

app = Commands("Deploy and run applications of several containers, with Docker Compose.", EXAMPLES)

StackArgument = Annotated[str, typer.Argument(metavar="STACK", help="Name of a stack.")]
StacksArgument = Annotated[list[str], typer.Argument(metavar="STACK", help="Names of stacks.")]
NameOption = Annotated[
    str,
    typer.Option("--name", "-p", metavar="NAME", help="Name of the stack; by default the file's or its folder's."),
]
EnvOption = Annotated[
    Path | None, typer.Option("--env-file", metavar="PATH", help="Variables for the file; by default .env next to it.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the changes only.")]


@app.command("ls")
def list_(
    all_: Annotated[bool, typer.Option("--all", "-a", help="Include removed stacks that can be brought back.")] = False,
    host: HostOption = "",
    as_json: JsonOption = False,
) -> None:
    """List stacks on every host."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.call("list_stacks", {"all": all_, "limit": 1000}, host=host, as_json=as_json)


@app.command("show")
def show(
    names: StacksArgument,
    file: Annotated[bool, typer.Option("--file", help="Show its Compose file too.")] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show values in it that look like secrets.")] = False,
    host: HostOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show services, images, volumes and deployed versions of stacks."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.call_for_each("get_stack_info", names, {"file": file, "reveal": reveal}, host=host, as_json=as_json)


@app.command("up")
def up(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A Compose file, or a folder with one.")],
    name: NameOption = "",
    env_file: EnvOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Also a stack that was not deployed with Anvyl.")] = False,
    host: HostOption = "",
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Deploy a Compose file to one or several hosts, after showing what changes.

    Existing containers are changed only where the file differs from what runs.
    """
    from anvyl_mcp.cli.commands.stacks.stack_changes import deploy, read_stack_file

    def arguments() -> dict[str, Any]:
        return {**read_stack_file(file, name, env_file).arguments, **({"replace": True} if replace else {})}

    deploy("deploy_stack", arguments, host=host, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command("diff")
def diff(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A Compose file, or the name of a stack.")],
    name: NameOption = "",
    env_file: EnvOption = None,
    host: HostOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show how a Compose file differs from what runs.

    With the name of a stack, compare its last deployed version with what runs.
    """
    from anvyl_mcp.cli.commands.stacks.stack_changes import deploy, read_stack_file

    def arguments() -> dict[str, Any]:
        is_name = "/" not in file and not Path(file).exists()
        return {"name": file} if is_name else read_stack_file(Path(file), name, env_file).arguments

    deploy("deploy_stack", arguments, host=host, dry_run=True, yes=False, as_json=as_json)


@app.command("adopt")
def adopt(
    name: StackArgument,
    host: HostOption = "",
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Deploy a stack again from its own files on the host, so that its versions are kept from now on.

    For a stack that was deployed with docker compose there. Needs the scope exec.
    """
    from anvyl_mcp.cli.commands.stacks.stack_changes import deploy

    deploy("deploy_stack", lambda: {"name": name}, host=host, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command("revert")
def revert(
    name: StackArgument,
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="As in `anvyl stack show`; the previous one if omitted.")
    ] = "",
    host: HostOption = "",
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Bring back an earlier version of a stack, with exactly the images that ran.

    Data in volumes stays as it is.
    """
    from anvyl_mcp.cli.commands.stacks.stack_changes import deploy

    arguments = {"name": name, "version": version}
    deploy("revert_stack", lambda: arguments, host=host, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command("start")
def start(names: StacksArgument, host: HostOption = "", yes: YesOption = False, as_json: JsonOption = False) -> None:
    """Start all containers of stacks."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.call_for_each("start_stack", names, {}, host=host, as_json=as_json, yes=yes, progress=True)


@app.command("stop")
def stop(names: StacksArgument, host: HostOption = "", yes: YesOption = False, as_json: JsonOption = False) -> None:
    """Stop all containers of stacks."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.call_for_each("stop_stack", names, {}, host=host, as_json=as_json, yes=yes, progress=True)


@app.command("restart")
def restart(names: StacksArgument, host: HostOption = "", yes: YesOption = False, as_json: JsonOption = False) -> None:
    """Restart all containers of stacks."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.call_for_each("restart_stack", names, {}, host=host, as_json=as_json, yes=yes, progress=True)


@app.command("logs")
def logs(
    names: StacksArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines until Ctrl-C.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", metavar="LINES", help="Number of most recent lines.")] = 100,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Only lines since then, like 10m or 2026-11-23T10:00:00Z.")
    ] = "",
    grep: Annotated[str, typer.Option(metavar="TEXT", help="Only lines that contain TEXT.")] = "",
    host: HostOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show the last log lines of all containers of stacks, in order of time; -f follows them."""
    from anvyl_mcp.cli.commands.containers.logs import print_logs
    from anvyl_mcp.cli.runtime import tool_command

    if follow:
        print_logs(names, follow=True, tail=tail, since=since, grep=grep, host=host, as_json=as_json)
    arguments = {"tail": tail, "since": since, "grep": grep}
    tool_command.call_for_each("get_stack_logs", names, arguments, host=host, as_json=as_json)


@app.command("rm")
def rm(
    names: StacksArgument,
    volumes: Annotated[bool, typer.Option("--volumes", "-v", help="Remove its volumes too, with all data.")] = False,
    host: HostOption = "",
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove stacks, after asking. Their volumes and versions are kept."""
    from anvyl_mcp.cli.runtime import tool_command

    arguments = {"volumes": volumes}
    tool_command.call_for_each("remove_stack", names, arguments, host=host, as_json=as_json, yes=yes, progress=True)
