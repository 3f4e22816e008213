"""`anvyl exec` and `anvyl run`: commands that end in the words of another program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from anvyl_mcp.cli.options import Host, Json, Name, Yes
from anvyl_mcp.cli.table import Words

Function = TypeVar("Function", bound=Callable[..., None])


def ends_in_words(function: Function) -> Function:
    """Mark a command whose last words belong to another program."""
    vars(function)["cls"] = Words
    return function


@ends_in_words
def execute(
    name: Name,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND",
            help="Like ls -l /; no shell unless sh -c '…'. Options of ours come before the container, or before a --.",
        ),
    ],
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

    command.execute(name, words, host=host, timeout=timeout, yes=yes, as_json=as_json)


@ends_in_words
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
