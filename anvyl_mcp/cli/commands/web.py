"""`anvyl web`: opens the page of this host in a browser, signed in."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from anvyl_mcp.cli.parser.options import JsonOption

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings

SHOWN_SECONDS = 300
"""Validity of a link that a person copies."""
OPENED_SECONDS = 60
"""Validity of a link that is handed to a browser at once, where other users may see it in the list of processes."""


def web(
    scope: Annotated[str, typer.Option(metavar="SCOPES", help="Permissions: read, operate or exec.")] = "read,operate",
    print_: Annotated[bool, typer.Option("--print", help="Print the one-time link, without opening it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Open this host's page in a browser.

    The page shows all hosts and their containers.
    """
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.invite import create_local_link
        from anvyl_mcp.core import text

        if not print_ and not as_json and _has_display():
            link = create_local_link(settings, scope=scope, seconds=OPENED_SECONDS, private=True)
            if _open_browser(link["url"]):
                output.print_message("opened in your browser; if nothing appears: anvyl web --print")
                return 0
        link = create_local_link(settings, scope=scope, seconds=SHOWN_SECONDS, private=False)
        if as_json:
            output.print_json({**link, "error": None})
            return 0
        output.print_verbatim(link["url"])
        rights = ", ".join(link["scopes"])
        output.print_message(f"works once, within {text.format_duration(link['seconds'])}, and grants {rights}")
        if not print_:
            port = link["url"].split("/")[2].rpartition(":")[2]
            output.print_message(
                f"hint:  there is no display here; from another machine: ssh -N -L {port}:127.0.0.1:{port} THIS-HOST, "
                "then open the link there; or anvyl-mcp invite --browser"
            )
        return 0

    runner.run_command(work, failed=output.error_document("url") if as_json else None)


def _has_display() -> bool:
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open_browser(url: str) -> bool:
    import webbrowser

    try:
        return webbrowser.open(url)
    except (webbrowser.Error, OSError):
        return False
