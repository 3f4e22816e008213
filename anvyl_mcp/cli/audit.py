"""`anvyl-mcp audit`: what was done on this host, by whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from anvyl_mcp.settings import Settings

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None, help="What was done on this host, by whom.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.callback()
def show(
    context: typer.Context,
    since: Annotated[str, typer.Option(help="How far back, like 2h or 7d.")] = "",
    tool: Annotated[str, typer.Option(help="Only this tool.")] = "",
    operation: Annotated[str, typer.Option(metavar="ID", help="Only the change with this operation id.")] = "",
    as_json: Json = False,
) -> None:
    """Show what was done on this host, by whom."""
    if context.invoked_subcommand:
        return
    from anvyl_mcp import text
    from anvyl_mcp.cli import output, run

    async def work(settings: Settings) -> int:
        from datetime import UTC, datetime, timedelta

        from anvyl_mcp import app as root

        start = datetime.now(UTC) - timedelta(seconds=run.seconds(since, "--since")) if since else None
        records = root.trust(settings).records(since=start, tool=tool, operation=operation)
        if as_json:
            output.document({"records": records, "error": None})
            return 0
        columns = ["time", "who", "tool", "arguments", "outcome", "seconds"]
        if operation and not records:
            output.talk(f"no change with the operation id {operation} began here, as far back as the log goes")
        output.table(columns, [[text.cell(record[column], {}) for column in columns] for record in records])
        return 0

    run.command(work, failed=output.failed("records", []) if as_json else None)


@app.command()
def verify(as_json: Json = False) -> None:
    """Check that no record was altered, removed or moved."""
    from anvyl_mcp.cli import output, run

    async def work(settings: Settings) -> int:
        from anvyl_mcp import app as root

        found = root.trust(settings).audit.verify()
        if as_json:
            output.document(
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
            output.talk(f"the audit log is not whole: {found.problem}")
        else:
            output.talk(f"the audit log is whole: {found.records} records in {found.files} files, head {found.head}")
        for note in [] if as_json else found.notes:
            output.talk(f"note:  {note}")
        return 1 if found.problem else 0

    run.command(work, failed=output.failed("ok", False) if as_json else None)
