"""Options that several commands share. The words in capitals are what completion knows names for."""

from __future__ import annotations

from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(metavar="CONTAINER", help="Container name or id.")]
Names = Annotated[list[str], typer.Argument(metavar="CONTAINER", help="Container names or ids.")]
Images = Annotated[list[str], typer.Argument(metavar="IMAGE", help="Like nginx:1.27.")]
Host = Annotated[str, typer.Option("--host", "-H", help="nas, nas,web1, @tag, all or local.", metavar="SEL")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before changing something.")]
