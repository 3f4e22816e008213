"""`anvyl-mcp audit`: shows and verifies the audit log of this host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anvyl_mcp.cli.parser.command_groups import Commands
from anvyl_mcp.cli.parser.options import JsonOption

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings

EXAMPLES = """\
anvyl-mcp audit --since 2h
anvyl-mcp audit --tool stop_container --limit 20
anvyl-mcp audit verify
"""

app = Commands("Show what was changed on this host, and by whom.", EXAMPLES, invoke_without_command=True)

MOST_ROWS = 50
"""Default of `--limit`."""


@app.callback()
def show(
    context: typer.Context,
    since: Annotated[str, typer.Option(metavar="TIME", help="Only records since then, like 2h or 7d.")] = "",
    tool: Annotated[str, typer.Option(metavar="TOOL", help="Only calls of this tool.")] = "",
    operation: Annotated[str, typer.Option(metavar="ID", help="Only the change with this operation ID.")] = "",
    all_: Annotated[bool, typer.Option("--all", "-a", help="Include reads, not only changes and refusals.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", "-n", metavar="NUMBER", help="Number of most recent records; 0 for all.  [default: 50]"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the records; with --json all of them, including reads, with times in UTC."""
    if context.invoked_subcommand:
        return
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from datetime import UTC, datetime, timedelta

        from anvyl_mcp.core.errors import InvalidInput
        from anvyl_mcp.server.http.host_state import HostState

        if limit is not None and limit < 0:
            raise InvalidInput(f"--limit is {limit}", hint="give the number of records to show, or 0 for all")
        start = datetime.now(UTC) - timedelta(seconds=runner.parse_seconds(since, "--since")) if since else None
        records = HostState(settings.state_dir).records(since=start, tool=tool, operation=operation)
        if as_json:
            output.print_json({"records": records[-limit:] if limit else records, "error": None})
            return 0
        if operation and not records:
            output.print_message(f"the audit log of this host has no change with the operation ID {operation}")
        if not (all_ or tool or operation):
            records = _only_changes(records, settings)
        most = MOST_ROWS if limit is None else limit
        shown = records[-most:] if most else records
        if len(shown) < len(records):
            output.print_message(f"{len(records) - len(shown)} older records are not shown; --limit 0 shows all")
        output.print_table(
            ["time", "who", "tool", "arguments", "outcome", "seconds"], [_row(record) for record in shown]
        )
        return 0

    runner.run_command(work, failed=output.error_document("records", []) if as_json else None)


def _only_changes(records: Sequence[Mapping[str, Any]], settings: Settings) -> list[Mapping[str, Any]]:
    """Drop successful reads; records that are not tool calls are kept as changes."""
    from anvyl_mcp.app.catalogue import load_catalogue

    reads = {name for name, tool in load_catalogue(settings.cache_dir).items() if tool.reads}
    return [record for record in records if record["tool"] not in reads or record["outcome"] == "denied"]


def _row(record: Mapping[str, Any]) -> list[str]:
    from anvyl_mcp.core import text

    words = [text.format_cell(record[name], {}) for name in ("who", "tool", "arguments", "outcome")]
    return [text.format_local_time(record["time"]), *words, _format_seconds(record["seconds"])]


def _format_seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f}" if seconds < 1 else f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"


@app.command()
def verify(as_json: JsonOption = False) -> None:
    """Check that no record was changed, removed or moved."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.server.http.host_state import HostState

        found = HostState(settings.state_dir).audit.verify()
        if as_json:
            output.print_json(
                {
                    "ok": not found.problem,
                    "records": found.records,
                    "files": found.files,
                    "head": found.head,
                    "problem": found.problem,
                    "notes": list(found.notes),
                    "error": None,
                }
            )
        elif found.problem:
            output.print_message(f"the audit log was altered: {found.problem}")
        else:
            output.print_message(
                f"the audit log is intact: {found.records} records in {found.files} files, head {found.head}"
            )
        for note in [] if as_json else found.notes:
            output.print_message(f"note:  {note}")
        return 1 if found.problem else 0

    runner.run_command(work, failed=output.error_document("ok", False) if as_json else None)
