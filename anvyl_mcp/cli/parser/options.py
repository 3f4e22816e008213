"""Options that several commands share. Completion chooses candidates by the metavar."""

from __future__ import annotations

from typing import Annotated

import typer

ContainerArgument = Annotated[str, typer.Argument(metavar="CONTAINER", help="Name or ID of a container.")]
ContainersArgument = Annotated[list[str], typer.Argument(metavar="CONTAINER", help="Names or IDs of containers.")]
ImagesArgument = Annotated[list[str], typer.Argument(metavar="IMAGE", help="For example nginx:1.27.")]
HostOption = Annotated[
    str, typer.Option("--host", "-H", help="Which hosts: nas, or nas,pi, @tag, all, local.", metavar="HOSTS")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
