"""`anvyl watch`: reports problems of the fleet as they happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anvyl_mcp.cli.parser.options import HostOption

if TYPE_CHECKING:
    from anvyl_mcp.app.node import Node
    from anvyl_mcp.core.errors import AnvylError
    from anvyl_mcp.core.settings import Settings
    from anvyl_mcp.peers.watch.troubles import Alert


def watch(
    host: HostOption = "",
    every: Annotated[str | None, typer.Option(metavar="TIME", help="Time between two checks.  [default: 30s]")] = None,
    disk: Annotated[
        int | None, typer.Option(metavar="PERCENT", help="Report disks that are fuller than this.  [default: 90]")
    ] = None,
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="Send each notice to this URL.")] = None,
    command: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Run this for each notice, with the notice as JSON on stdin.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Check once; exit code 1 if there is a problem.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document for each notice; with --once, a single one.")
    ] = False,
) -> None:
    """Watch the hosts and report problems.

    Problems are: a host or its engine does not answer, a disk is nearly full, a container is unhealthy, keeps
    restarting, died or was stopped by another program. Notices also go to the channels of `anvyl notify`.
    """
    import logging
    import sys

    from anvyl_mcp.cli.runtime import runner

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s: %(message)s")

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        async with open_node(settings, lean=True) as node:
            return await (_check_once(node, host, as_json) if once else _watch(node, host, as_json))

    flags = {
        "watch_every": every,
        "watch_disk": None if disk is None else str(disk),
        "watch_webhook": webhook,
        "watch_command": command,
    }
    runner.run_command(work, flags=flags, failed=_failed if as_json and once else None)


def _failed(error: AnvylError) -> dict[str, Any]:
    return {"notices": [], "error": error.as_dict()}


async def _check_once(node: Node, host: str, as_json: bool) -> int:
    """Print the current problems."""
    from anvyl_mcp.cli.runtime import output
    from anvyl_mcp.core.text import join_names, one_line
    from anvyl_mcp.peers.watch.notifiers import make_watcher

    alerts = await make_watcher(node.fleet, node.settings, host, patience=1).check()
    if as_json:
        output.print_json({"notices": [alert.as_dict() for alert in alerts], "error": None})
    else:
        for alert in alerts:
            output.print_text(one_line(alert.message))
        if not alerts:
            output.print_message(f"no problems on {join_names(node.fleet.select(host or 'all'))}")
    return 1 if alerts else 0


async def _watch(node: Node, host: str, as_json: bool) -> int:
    import time

    from anvyl_mcp.cli.runtime import output
    from anvyl_mcp.core.text import join_names
    from anvyl_mcp.peers.notices.channels import ChannelStore
    from anvyl_mcp.peers.watch.notifiers import NoticePost, make_watch
    from anvyl_mcp.peers.watch.watch_file import WatchFile

    served = WatchFile(node.settings.state_dir).read().is_alive(time.time())
    post = NoticePost(node.settings, node.local.name, channels=not served)
    run = make_watch(node.fleet, node.settings, _printer(as_json), host, post=post)
    output.print_message(f"watching {join_names(node.fleet.select(host or 'all'))}; Ctrl-C stops")
    if served and ChannelStore(node.settings.config_dir).names():
        output.print_message("note:  the server of this host watches too, and sends the notices")
    await run()
    return 0


def _printer(as_json: bool) -> Callable[[Alert], None]:
    import time

    from anvyl_mcp.cli.runtime import output
    from anvyl_mcp.core import text

    def print_alert(alert: Alert) -> None:
        if as_json:
            output.print_json(alert.as_dict(), indent=None)
            return
        clock = time.strftime("%H:%M:%S", time.localtime(alert.at))
        output.print_text(text.one_line(f"{clock}  {alert.message}"), "green" if alert.over else "red")

    return print_alert
