"""`anvyl history`: what happened on the hosts, as one list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from anvyl_mcp.cli.parser.options import HostOption, JsonOption

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings
    from anvyl_mcp.peers.history.merged_history import MergedHistory

KINDS = ("changes", "deaths", "events")
MOST_WITH_LINES = 3


def history(
    name: Annotated[
        str, typer.Argument(metavar="[CONTAINER]", help="Container, image, volume or stack, also a removed one.")
    ] = "",
    since: Annotated[
        str, typer.Option(metavar="TIME", help="From then on: 2d, yesterday, last night, Monday, 3 am, 2026-11-23.")
    ] = "24h",
    until: Annotated[str, typer.Option(metavar="TIME", help="Until the end of that time.")] = "",
    kind: Annotated[
        str,
        typer.Option(metavar="KIND", help="changes: by people or programs; deaths: ends with last log lines; events."),
    ] = "",
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="COUNT", help="Entries of each host.", min=1, max=1000)
    ] = 50,
    host: HostOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show what happened and who did it, over all hosts, newest first."""
    from anvyl_mcp.cli.runtime import output
    from anvyl_mcp.cli.runtime.runner import run_command
    from anvyl_mcp.core.errors import InvalidInput, did_you_mean
    from anvyl_mcp.core.values.time_arguments import make_exact, remark_on
    from anvyl_mcp.peers.changes import outcome
    from anvyl_mcp.peers.history.merged_history import TOOL, read_history

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        if kind and kind not in KINDS:
            raise InvalidInput(f"there is no kind `{kind}`", hint=did_you_mean(kind, KINDS))
        async with open_node(settings, lean=True) as node:
            await node.fleet.learn_tool(TOOL)
            given = {"name": name, "since": since, "until": until, "kind": kind, "limit": limit}
            arguments = {key: value for key, value in given.items() if value}
            hosts = node.fleet.select(host) if host else node.fleet.hosts
            # A time that cannot be read is one error, not one of each host.
            exact = make_exact(node.fleet.tool(TOOL).arguments, arguments)
            found = await read_history(node.fleet, hosts, exact)
        for remark in filter(None, map(remark_on, (since, until))):
            output.print_message(f"note:  {remark}")
        if as_json:
            output.print_json(_document(found))
        else:
            _print(found, lines=bool(name) or kind == "deaths")
        return outcome.exit_code(list(found.outcomes))

    run_command(work, failed=(lambda error: {**output.no_hosts_document(error), "events": []}) if as_json else None)


def _document(found: MergedHistory) -> dict[str, Any]:
    from anvyl_mcp.cli.runtime import output

    events = [
        {**event.fields, "host": event.host, "time": event.time.isoformat(timespec="seconds")} for event in found.events
    ]
    notes = [*found.states, *found.notes]
    return {
        "events": events,
        "more": found.hidden,
        "notes": notes,
        **output.hosts_document({one.host: one for one in found.outcomes}),
    }


def _print(found: MergedHistory, *, lines: bool) -> None:
    """Print the table, last log lines after it if `lines`, and what is missing to stderr."""
    from anvyl_mcp.cli.runtime import output

    output.print_history(found)
    if not found.events and any(one.ok for one in found.outcomes):
        output.print_message("nothing was recorded in that time")
    if lines:
        for event in [event for event in found.events if event.fields.get("lines")][:MOST_WITH_LINES]:
            output.print_text(
                f"\nlast lines of {event.fields['name']} on {event.host}, {output.event_time(event)}:", "bold"
            )
            for line in event.fields["lines"]:
                output.print_text(f"  {line}")
    if found.hidden:
        output.print_message(f"note:  {found.hidden} older ones are not shown; raise --limit")
    for note in dict.fromkeys([*found.states, *found.notes]):
        output.print_message(f"note:  {note}")
    for one in found.outcomes:
        output.print_failure(one)
