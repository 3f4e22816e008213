"""`anvyl-mcp key`: shows and rotates the key that identifies this host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from anvyl_mcp.cli.parser.command_groups import Commands
from anvyl_mcp.cli.parser.options import JsonOption

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings

EXAMPLES = """\
anvyl-mcp key show
anvyl-mcp key rotate
anvyl-mcp key rotate --finish
"""

app = Commands("Manage the key that identifies this host.", EXAMPLES)


@app.command()
def show(as_json: JsonOption = False) -> None:
    """Show this host's pin, and the progress of a key rotation."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.server.http.host_state import HostState

        found = HostState(settings.state_dir).keys()
        if as_json:
            output.print_json({**found, "error": None})
            return 0
        output.print_verbatim(f"pin\t{found['pin']}")
        if found["next"]:
            output.print_verbatim(f"next\t{found['next']}")
            output.print_verbatim(f"seen by\t{', '.join(found['told']) or 'none'}")
            output.print_verbatim(f"not seen by\t{', '.join(found['not_told']) or 'none'}")
        return 0

    runner.run_command(work, failed=output.error_document("pin") if as_json else None)


@app.command()
def rotate(
    finish: Annotated[bool, typer.Option("--finish", help="Start using the next key.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Discard the next key.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Rotate even if some clients have not seen the new key and must re-pair.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Rotate this host's key.

    Creates the next key and announces it to the machines that call. When all have seen it, run with --finish.
    """
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.core.errors import InvalidInput
        from anvyl_mcp.server.http.host_state import HostState

        if finish and cancel:
            raise InvalidInput("--finish and --cancel exclude each other", hint="see the progress: anvyl-mcp key show")
        state = HostState(settings.state_dir)
        before = state.keys()
        if finish:
            _confirm(before, yes=yes)
            state.rotate_key("finish")
        else:
            state.rotate_key("cancel" if cancel else "begin")
        found = state.keys()
        if as_json:
            output.print_json({**found, "error": None})
        for line in _result_lines(before, found, finish=finish, cancel=cancel):
            output.print_message(line)
        return 0

    runner.run_command(work, failed=output.error_document("pin") if as_json else None)


def _confirm(before: dict[str, Any], *, yes: bool) -> None:
    """Ask for approval if some clients have not seen the next key and would have to pair again.

    Raises:
        ApprovalNeeded: there is no terminal.
        Declined: the answer is no.
    """
    from anvyl_mcp.cli.runtime import runner
    from anvyl_mcp.core.errors import ApprovalNeeded, Declined

    missing = ", ".join(before["not_told"])
    if yes or not missing or not before["next"]:
        return
    answer = runner.ask_yes_no(f"Not seen by {missing}, which must pair again. Use the next key now?")
    if answer is None:
        raise ApprovalNeeded(
            f"the next key was not seen by {missing}, which would have to pair again",
            hint="wait until they call this host, or add --yes",
        )
    if not answer:
        raise Declined()


def _result_lines(before: dict[str, Any], found: dict[str, Any], *, finish: bool, cancel: bool) -> list[str]:
    if finish:
        again = ", ".join(before["not_told"])
        return [
            f"this host now uses the new key: {found['pin']}",
            *([f"hint:  {again} must pair again"] if again else []),
        ]
    if cancel:
        return [f"discarded the next key; this host keeps {found['pin']}"]
    return [
        f"created the next key: {found['next']}",
        "machines learn it when they call this host; anvyl-mcp key show lists them",
        "hint:  when all have seen it: anvyl-mcp key rotate --finish",
    ]
