"""`anvyl-mcp key`: the key by which other machines know this host, and its change."""

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
    """Show this host's pin, and the progress of a key change."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.server.http.host_state import HostState

        found = HostState(settings.state_dir).keys()
        if as_json:
            output.document({**found, "error": None})
            return 0
        output.verbatim(f"pin\t{found['pin']}")
        if found["next"]:
            output.verbatim(f"next\t{found['next']}")
            output.verbatim(f"told\t{', '.join(found['told']) or 'nobody'}")
            output.verbatim(f"not told\t{', '.join(found['not_told']) or 'nobody'}")
        return 0

    runner.command(work, failed=output.failed("pin") if as_json else None)


@app.command()
def rotate(
    finish: Annotated[bool, typer.Option("--finish", help="Start using the next key.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Discard the next key.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Finish even if some machines have not seen the next key and must pair again.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Change this host's key.

    Creates the next key and announces it to the machines that call. When they have seen it, run it with --finish.
    """
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.core.errors import InvalidInput
        from anvyl_mcp.server.http.host_state import HostState

        if finish and cancel:
            raise InvalidInput("it is either --finish or --cancel", hint="anvyl-mcp key show says how things are")
        state = HostState(settings.state_dir)
        before = state.keys()
        if finish:
            _confirm(before, yes=yes)
            state.rotate_key("finish")
        else:
            state.rotate_key("cancel" if cancel else "begin")
        found = state.keys()
        if as_json:
            output.document({**found, "error": None})
        for line in _told(before, found, finish=finish, cancel=cancel):
            output.talk(line)
        return 0

    runner.command(work, failed=output.failed("pin") if as_json else None)


def _confirm(before: dict[str, Any], *, yes: bool) -> None:
    """Whoever was not told is locked out: that is asked for.

    Raises:
        ApprovalNeeded: there is nobody to ask, or the answer is no.
    """
    from anvyl_mcp.cli.runtime import runner
    from anvyl_mcp.core.errors import ApprovalNeeded

    missing = ", ".join(before["not_told"])
    if yes or not missing or not before["next"]:
        return
    answer = runner.ask_yes_no(f"{missing} was not told of the next key and must pair again. Put it in place?")
    if answer is None:
        raise ApprovalNeeded(
            f"{missing} was not told of the next key yet, and would have to pair again",
            hint="wait until it calls this host once more, or add --yes",
        )
    if not answer:
        raise ApprovalNeeded("nothing was changed", hint="anvyl-mcp key show says who was told")


def _told(before: dict[str, Any], found: dict[str, Any], *, finish: bool, cancel: bool) -> list[str]:
    if finish:
        again = ", ".join(before["not_told"])
        return [f"the new key is in place: {found['pin']}", *([f"hint:  {again} must pair again"] if again else [])]
    if cancel:
        return [f"the next key is forgotten; the key stays {found['pin']}"]
    return [
        f"the next key is made: {found['next']}",
        "every machine that calls this host from now on is told; `anvyl-mcp key show` says which were",
        "hint:  then put it in place: anvyl-mcp key rotate --finish",
    ]
