"""`anvyl exec` and `anvyl run`: commands that end in the words of another program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from anvyl_mcp.cli.options import Host, Json, Name, Yes
from anvyl_mcp.cli.table import Words

Function = TypeVar("Function", bound=Callable[..., None])


def read_by(reader: type[Words]) -> Callable[[Function], Function]:
    """Mark a command whose last words belong to another program, with the class that tells whose they are."""

    def marked(function: Function) -> Function:
        vars(function)["cls"] = reader
        return function

    return marked


class Interactive(Words):
    """`exec`, which knows the options that Docker users type for a shell: they are told how to get one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read `-it` as one option, since `-t` alone waits for seconds."""
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


@read_by(Interactive)
def execute(
    name: Name,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="Like ls -l /; no shell unless sh -c '…'. Options of ours come before the container, or before a --.",
        ),
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="-it: say how to get a shell; none can be had through here.")
    ] = False,
    host: Host = "",
    timeout: Annotated[
        int, typer.Option("--timeout", "-t", metavar="SECONDS", help="How long it may take, at most 300.")
    ] = 30,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Run a command in a container.

    Its output and its exit code become ours.
    """
    from anvyl_mcp.cli import execute as command

    if interactive:
        command.say_how(name, words or ["sh"], host=host, as_json=as_json)
    if not words:
        raise typer.BadParameter("a command is missing: what to run in the container")
    command.execute(name, words, host=host, timeout=timeout, yes=yes, as_json=as_json)


@read_by(Words)
def run(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Like nginx:1.27; fetched when it is missing.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="Instead of the image's own. Options of ours come before the image, or before a --.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(metavar="TEXT", help="Name of the new container.")] = "",
    publish: Annotated[
        list[str] | None, typer.Option("--publish", "-p", metavar="PORTS", help="Like 8080:80; may be repeated.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", metavar="KEY=VALUE", help="KEY alone takes the value from here.")
    ] = None,
    volume: Annotated[
        list[str] | None, typer.Option("--volume", "-v", metavar="VOLUME", help="Like /data:/data:ro or name:/data.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", metavar="LABEL", help="Like key=value.")] = None,
    restart: Annotated[str, typer.Option(metavar="POLICY", help="no, always, unless-stopped or on-failure.")] = "",
    network: Annotated[str, typer.Option(metavar="NETWORK", help="Network to connect it to.")] = "",
    memory: Annotated[str, typer.Option("--memory", "-m", metavar="SIZE", help="At most this much, like 512m.")] = "",
    cpus: Annotated[str, typer.Option(metavar="NUMBER", help="At most this many, like 1.5.")] = "",
    place: Annotated[
        str,
        typer.Option(
            metavar="RULE", help="Choose the host by figures: most-memory, least-loaded, @tag, or @tag,most-memory."
        ),
    ] = "",
    host: Host = "",
    yes: Yes = False,
    as_json: Json = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", hidden=True)] = True,
) -> None:
    """Create a container from an image and start it.

    It runs in the background; `anvyl logs -f NAME` shows what it says.
    """
    from anvyl_mcp.cli import execute as command

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
    command.run(image, words or [], options, place=place, host=host, yes=yes, as_json=as_json)
