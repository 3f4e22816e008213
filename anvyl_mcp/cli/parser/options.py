"""Options that several commands share. The words in capitals are what completion knows names for."""

from __future__ import annotations

from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(metavar="CONTAINER", help="Name or ID of a container.")]
Names = Annotated[list[str], typer.Argument(metavar="CONTAINER", help="Names or IDs of containers.")]
Images = Annotated[list[str], typer.Argument(metavar="IMAGE", help="For example nginx:1.27.")]
Host = Annotated[
    str, typer.Option("--host", "-H", help="Which hosts: nas, or nas,pi, @tag, all, local.", metavar="HOSTS")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
