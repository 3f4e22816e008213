"""`anvyl updates` and `anvyl update`: newer images for containers, and updates to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from anvyl_mcp.cli.parser.options import HostOption, JsonOption, YesOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anvyl_mcp.cli.runtime.host_answers import TableView
    from anvyl_mcp.core.settings import Settings
    from anvyl_mcp.peers.connection.listing import ToolListing
    from anvyl_mcp.peers.fleet.fleet import Outcome

LIST = "list_updates"
TITLES = {"current": "FROM", "available": "TO", "published": "AGE", "change": "CLASS"}


def updates(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A container or stack; all if omitted.")] = "",
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask the registries again instead of using answers of the last 6 hours.")
    ] = False,
    host: HostOption = "",
    as_json: JsonOption = False,
) -> None:
    """List containers and stacks with newer images."""
    from anvyl_mcp.cli.runtime import output, tool_command
    from anvyl_mcp.cli.runtime.runner import run_command
    from anvyl_mcp.core.errors import NotFound
    from anvyl_mcp.peers.changes import outcome

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        async with open_node(settings, lean=True) as node:
            tool, arguments = node.fleet.tool(LIST), {"name": name, "refresh": refresh}
            done = await tool_command.run_calls(
                node.fleet, settings, tool, [arguments], host, yes=True, as_json=as_json, view=_view
            )
            results = [one.answer.result or {} for one in done if one.ok]
            if name and results and all(one.get("note") for one in results):
                raise NotFound(f"no host has a container or stack `{name}`", hint="see anvyl ps --all")
            if as_json:
                output.print_json(output.hosts_document({one.host: one for one in done}))
            else:
                _print_rest(done)
            return outcome.exit_code(done)

    run_command(work, failed=output.no_hosts_document if as_json else None)


def _view(tool: ToolListing) -> TableView | None:
    from anvyl_mcp.cli.runtime.host_answers import table_view

    return table_view(tool, TITLES)


def _print_rest(done: Sequence[Outcome]) -> None:
    """Say what is up to date, and what could not be checked, on each host."""
    from anvyl_mcp.cli.runtime import output
    from anvyl_mcp.core import text

    notes: dict[str, list[str]] = {}
    for one in done:
        result = one.answer.result or {}
        for row in result.get("updates") or ():
            if note := row.get("note"):
                output.print_message(f"{one.host}: {row.get('name')}: {note}")
            if link := row.get("notes"):
                notes.setdefault(str(link), []).append(str(row.get("name")))
        if current := result.get("current"):
            when = text.format_age(str(result.get("checked") or ""))
            output.print_message(f"{one.host}: {text.plural(len(current), 'container')} up to date (checked {when})")
        if updating := result.get("updating"):
            output.print_message(f"{one.host}: being updated: {text.join_names(updating)}")
        for line in result.get("unchecked") or ():
            output.print_message(f"{one.host}: not checked: {line}")
    for link, names in notes.items():
        output.print_message(f"release notes of {text.join_names(list(dict.fromkeys(names)))}: {link}")


def update(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Containers or stacks.")] = None,
    all_: Annotated[bool, typer.Option("--all", "-a", help="All containers with newer images.")] = False,
    except_: Annotated[
        list[str] | None, typer.Option("--except", metavar="NAME", help="Leave out this one (may be repeated).")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Also take images that are less than 3 days old.")] = False,
    image: Annotated[str, typer.Option(metavar="IMAGE", help="Another image for one container.")] = "",
    watch: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=900,
            help="How long a new container without a health check must run; 0: not at all.  [default: 120]",
        ),
    ] = None,
    host: HostOption = "",
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Update containers or stacks; one that does not come up gets its old image back.

    A new image must become healthy, or run for 2 minutes without a restart. The old one is kept for 24 hours: see
    `anvyl undo`.
    """
    from anvyl_mcp.cli.commands.stacks.update import UpdateOptions, run_updates

    run_updates(
        UpdateOptions(tuple(names or ()), all_, tuple(except_ or ()), now, image, watch),
        host=host,
        yes=yes,
        as_json=as_json,
    )
