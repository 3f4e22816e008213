"""`anvyl undo`: undoes the last change, after asking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from anvyl_mcp.cli.parser.options import HostOption, JsonOption, YesOption
from anvyl_mcp.core.errors import AnvylError

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings
    from anvyl_mcp.peers.changes.undo import UndoCandidate


def undo(
    host: HostOption = "",
    yes: YesOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be undone, without changing anything.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Undo the last start, stop or removal, after asking.

    A removed container is created again with the same settings, if its image is still there.
    """
    from anvyl_mcp.cli.runtime import output
    from anvyl_mcp.cli.runtime.approval_prompt import confirm_undo
    from anvyl_mcp.cli.runtime.runner import run_command
    from anvyl_mcp.core import text
    from anvyl_mcp.peers.changes.outcome import exit_code
    from anvyl_mcp.peers.changes.undo import last_change, undo

    found: list[UndoCandidate] = []

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        async with open_node(settings, lean=True) as node:
            wanted = await last_change(node.fleet, host)
            found.append(wanted)
            if dry_run:
                if as_json:
                    output.print_json(_document(found))
                else:
                    output.print_text(
                        text.one_line(f"Dry run: would, on {wanted.host}, {wanted.words}. Nothing was changed.")
                    )
                return 0
            confirm_undo(wanted, yes=yes)
            outcome = await undo(node.fleet, wanted)
            if as_json:
                output.print_json(_document(found, result=outcome.answer.result, error=outcome.error))
            elif outcome.ok:
                output.print_result(outcome, alone=False)
            output.print_failure(outcome)
            return exit_code([outcome])

    run_command(work, failed=(lambda error: _document(found, error=error)) if as_json else None)


def _document(found: list[UndoCandidate], *, result: Any = None, error: AnvylError | None = None) -> dict[str, Any]:
    return {
        "host": found[0].host if found else None,
        "undo": dict(found[0].change) if found else None,
        "result": result,
        "error": error.as_dict() if error else None,
    }
