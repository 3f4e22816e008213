"""`anvyl ask`: a question, its progress, its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from anvyl_mcp.cli import output
from anvyl_mcp.cli.run import ask_yes_no, command
from anvyl_mcp.errors import AnvylError
from anvyl_mcp.settings import Settings
from anvyl_mcp.text import shown

if TYPE_CHECKING:
    from anvyl_mcp.orchestrator.question import Proposal
    from anvyl_mcp.orchestrator.reply import Reply
    from anvyl_mcp.peers.fleet import Fleet, Outcome


def ask_once(text: str, *, host: str, yes: bool, dry_run: bool, as_json: bool, model: str, offline: bool) -> NoReturn:
    """Answer one question and end with its exit code."""

    async def work(settings: Settings) -> int:
        import anyio

        from anvyl_mcp import app
        from anvyl_mcp.errors import Cancelled
        from anvyl_mcp.orchestrator.question import Question
        from anvyl_mcp.orchestrator.reply import Reply

        question = Question(text, host=host, dry_run=dry_run, on_call=_progress)

        async def decide(proposal: Proposal) -> bool | None:
            return _decide(proposal, yes=yes, dry_run=dry_run)

        async with app.opened(settings) as node:
            try:
                reply = await node.assistant().ask(question, decide=decide, model=model, offline=offline)
            except (anyio.get_cancelled_exc_class(), KeyboardInterrupt):
                # Ctrl-C: what was done stays done, and is told.
                reply = Reply(question, error=Cancelled("interrupted", hint="what is shown above was done"))
                _show(reply, node.fleet, as_json=as_json)
                raise
            _show(reply, node.fleet, as_json=as_json)
        return reply.exit_code

    command(work, failed=_nothing(text) if as_json else None)


def _nothing(text: str) -> Any:
    def failed(error: AnvylError) -> dict[str, Any]:
        from anvyl_mcp.orchestrator.question import Question
        from anvyl_mcp.orchestrator.reply import Reply

        return Reply(Question(text), error=error).as_dict()

    return failed


def _progress(tool: str, arguments: Mapping[str, Any], hosts: list[str]) -> None:
    words = " ".join(f"{name}={shown(value)}" for name, value in arguments.items())
    output.talk(f"→ {tool} {words}".rstrip() + f" on {', '.join(hosts)}")


def _decide(proposal: Proposal, *, yes: bool, dry_run: bool) -> bool | None:
    """`--yes` covers what was proposed before any text written by others was read; the rest asks a person."""
    from anvyl_mcp.orchestrator.agent import describe

    if dry_run:
        return None
    if yes and not proposal.untrusted:
        return True
    after = f" (proposed after reading {proposal.untrusted})" if proposal.untrusted else ""
    return ask_yes_no(f"{describe(proposal)}{after}?")


def _show(reply: Reply, fleet: Fleet, *, as_json: bool) -> None:
    for note in reply.notes:
        output.talk(f"note:  {note}")
    if as_json:
        output.document(reply.as_dict())
    else:
        # The rules' answer holds the text forms and who failed; when nothing worked, the errors alone say it better.
        by_rules = reply.mode == "rules"
        worked = reply.error is None and (not reply.calls or any(call.ok for call in reply.calls))
        for (name, _), done in _grouped(reply.calls).items():
            output.outcomes(fleet.tool(name), done, tables_only=by_rules, failures=not (by_rules and worked))
        if reply.answer and (worked or not by_rules):
            print(reply.answer)
    if reply.error is not None:
        output.problem(reply.error)


def _grouped(calls: list[Outcome]) -> dict[tuple[str, str], dict[str, Outcome]]:
    """Calls of one tool with the same arguments are one table."""
    groups: dict[tuple[str, str], dict[str, Outcome]] = {}
    for call in calls:
        groups.setdefault((call.tool, str(call.arguments)), {})[call.host] = call
    return groups
