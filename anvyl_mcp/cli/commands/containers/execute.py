"""The `anvyl exec` and `anvyl run` command lines, which end with the command of another program."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anvyl_mcp.cli.parser.command_groups import Commands, PassThrough
from anvyl_mcp.cli.parser.options import ContainerArgument, HostOption, JsonOption, YesOption

exec_app = Commands()
run_app = Commands()


class ExecParser(PassThrough):
    """Parser of `exec` that recognizes docker's `-it`, to explain how to open a shell."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse `-it` as `--interactive`, since `-t` is the time limit."""
        is_value = False
        for place, word in enumerate(args):
            if is_value:
                is_value = False
                continue
            if word == "--" or not word.startswith("-"):
                break
            seconds = "".join(args[place + 1 : place + 2]).isdecimal()
            if word in ("-i", "-it", "-ti", "--tty") or (word == "-t" and not seconds):
                args = [*args[:place], "--interactive", *args[place + 1 :]]
            is_value = word in ("-H", "--host", "--timeout") or (word == "-t" and seconds)
        return super().parse_args(ctx, args)


@exec_app.command("exec", cls=ExecParser)
def execute(
    name: ContainerArgument,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="Like ls -l /; a shell needs sh -c. Options of anvyl go before CONTAINER, or before a --.",
        ),
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="With -t: show how to open a shell; anvyl itself cannot.")
    ] = False,
    host: HostOption = "",
    timeout: Annotated[int, typer.Option("--timeout", "-t", metavar="SECONDS", help="Time limit, at most 300.")] = 30,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a command in a container.

    Prints its output and ends with its exit code.
    """
    from anvyl_mcp.cli.commands.containers import exec_session

    if interactive:
        exec_session.refuse_interactive(name, words or ["sh"], host=host, as_json=as_json)
    if not words:
        raise typer.BadParameter("a command is missing")
    exec_session.execute(name, words, host=host, timeout=timeout, yes=yes, as_json=as_json)


@run_app.command("run", cls=PassThrough)
def run(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="For example nginx:1.27; pulled if it is missing.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="Replaces the command of the image. Options of anvyl go before IMAGE, or before a --.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the new container.")] = "",
    publish: Annotated[
        list[str] | None,
        typer.Option(
            "--publish", "-p", metavar="PORTS", help="Port of the host and of the container, like 8080:80; repeatable."
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env", "-e", metavar="KEY=VALUE", help="Environment variable; KEY alone copies your value; repeatable."
        ),
    ] = None,
    volume: Annotated[
        list[str] | None,
        typer.Option(
            "--volume",
            "-v",
            metavar="VOLUME",
            help="Mount a folder or a volume, like /data:/data:ro or name:/data; repeatable.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", metavar="LABEL", help="Label, like key=value; repeatable.")
    ] = None,
    restart: Annotated[
        str, typer.Option(metavar="POLICY", help="Restart policy: no, always, unless-stopped or on-failure.")
    ] = "",
    network: Annotated[str, typer.Option(metavar="NETWORK", help="Network to connect to.")] = "",
    memory: Annotated[str, typer.Option("--memory", "-m", metavar="SIZE", help="Memory limit, like 512m.")] = "",
    cpus: Annotated[str, typer.Option(metavar="NUMBER", help="CPU limit, like 1.5.")] = "",
    place: Annotated[
        str,
        typer.Option(
            metavar="RULE", help="How to choose the host: most-memory, least-loaded, @tag, or @tag,most-memory."
        ),
    ] = "",
    host: HostOption = "",
    yes: YesOption = False,
    as_json: JsonOption = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", hidden=True)] = True,
) -> None:
    """Create a container from an image and start it.

    It runs in the background; `anvyl logs -f NAME` shows its output.
    """
    from anvyl_mcp.cli.commands.containers import create

    options: dict[str, Any] = {
        "ports": publish or [],
        "env": env or [],
        "volumes": volume or [],
        "labels": label or [],
        "name": name,
        "restart": restart,
        "network": network,
        "memory": memory,
        "cpus": cpus,
    }
    create.run(image, words or [], options, place=place, host=host, yes=yes, as_json=as_json)
