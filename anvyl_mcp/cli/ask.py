"""`anvyl ask`: a question, its progress, its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from anvyl_mcp import text
from anvyl_mcp.cli import output
from anvyl_mcp.cli.run import command
from anvyl_mcp.errors import AnvylError
from anvyl_mcp.settings import Settings

if TYPE_CHECKING:
    from anvyl_mcp.cli.working import Working
    from anvyl_mcp.errors import Cancelled
    from anvyl_mcp.orchestrator.question import Question
    from anvyl_mcp.orchestrator.reply import Reply
    from anvyl_mcp.peers.fleet import Fleet, Outcome


def ask_once(words: str, *, host: str, yes: bool, dry_run: bool, as_json: bool, model: str, offline: bool) -> NoReturn:
    """Answer one question and end with its exit code."""

    async def work(settings: Settings) -> int:
        import anyio

        from anvyl_mcp import app
        from anvyl_mcp.cli.approving import Person
        from anvyl_mcp.cli.working import Working
        from anvyl_mcp.orchestrator.question import Question
        from anvyl_mcp.orchestrator.reply import Reply

        question = Question(words, host=host, dry_run=dry_run)
        async with app.opened(settings) as node:
            working = Working(question, quiet=as_json)
            person = Person(node.fleet, yes=yes, dry_run=dry_run, before=working.clear)
            question.on_proposals = person.look
            try:
                with working.shown():
                    reply = await node.assistant().ask(question, decide=person.decide, model=model, offline=offline)
            except (anyio.get_cancelled_exc_class(), KeyboardInterrupt):
                show(Reply(question, error=interrupted(question, working, node.fleet)), node.fleet, as_json=as_json)
                raise
            show(reply, node.fleet, as_json=as_json)
        return reply.exit_code

    command(work, failed=_nothing(words) if as_json else None)


def _nothing(words: str) -> Any:
    def failed(error: AnvylError) -> dict[str, Any]:
        from anvyl_mcp.orchestrator.question import Question
        from anvyl_mcp.orchestrator.reply import Reply

        return Reply(Question(words), error=error).as_dict()

    return failed


def interrupted(question: Question, working: Working, fleet: Fleet) -> Cancelled:
    """Ctrl-C in words: what was changed stays changed, and what was under way may still happen."""
    from anvyl_mcp.errors import Cancelled

    def reads(tool: str) -> bool:
        return tool in fleet.catalogue and fleet.catalogue[tool].reads

    changed = [f"{call.tool} on {call.host}" for call in question.calls if call.ok and not reads(call.tool)]
    begun = [f"{tool} on {host}" for tool, host in working.under_way if not reads(tool)]
    done = f"done: {text.joined(changed)}" if changed else ""
    maybe = f"{text.joined(begun)} was under way and may still happen: look before you repeat it" if begun else ""
    return Cancelled("interrupted", hint="; ".join(filter(None, [done, maybe])) or "nothing was changed")


def show(reply: Reply, fleet: Fleet, *, as_json: bool = False) -> None:
    """Print what became of a question: its tables, and the sentence that answers it."""
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
