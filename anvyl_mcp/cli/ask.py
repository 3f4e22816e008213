"""`anvyl ask`: a question, its progress, its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from anvyl_mcp import text
from anvyl_mcp.cli import interrupts, output
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
        import anyio.to_thread

        from anvyl_mcp import app
        from anvyl_mcp.cli.approving import Person
        from anvyl_mcp.cli.working import Working
        from anvyl_mcp.orchestrator.question import Question
        from anvyl_mcp.orchestrator.reply import Reply

        question = Question(words, host=host, dry_run=dry_run)
        async with app.opened(settings) as node:
            working = Working(question, quiet=as_json)
            person = Person(node.fleet, yes=yes, dry_run=dry_run, aside=working.aside)
            question.on_proposals = person.look

            def last_words() -> None:
                working.break_off()
                show(Reply(question, error=interrupted(question, working, node.fleet)), node.fleet, as_json=as_json)

            interrupts.current.words = last_words
            with working.shown():
                assistant = await anyio.to_thread.run_sync(node.ready_to_answer, abandon_on_cancel=True)
                reply = await assistant.ask(question, decide=person.decide, model=model, offline=offline)
            interrupts.current.words = lambda: None
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
    """Ctrl-C in words: what was changed stays changed, what was under way may still happen, and who had answered."""
    from anvyl_mcp.errors import Cancelled

    def reads(tool: str) -> bool:
        return tool in fleet.catalogue and fleet.catalogue[tool].reads

    changes = [call for call in question.calls if call.ok and not reads(call.tool)]
    changed = [f"{working.words(call.tool, call.arguments)} on {call.host}" for call in changes]
    begun = [f"{words} on {host}" for tool, host, words in working.under_way if not reads(tool)]
    asked = list(dict.fromkeys(host for tool, host, _ in working.under_way if reads(tool)))
    words = [
        f"done: {text.joined(changed)}" if changed else "",
        f"{text.joined(begun)} was under way and may still happen: look before you repeat it" if begun else "",
        f"{text.joined(asked)} had not answered" if asked else "",
        "" if changed or begun else "nothing was changed",
    ]
    return Cancelled("interrupted", hint="; ".join(filter(None, words)))


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
        said = _without(reply.error, reply.answer) if worked or not by_rules else ""
        for (name, _), done in _grouped(reply.calls).items():
            told = by_rules and bool(said) and not reply.waiting
            output.outcomes(fleet.tool(name), done, tables_only=told, failures=not told)
        if said:
            print(said)
    if reply.error is not None:
        output.problem(reply.error)


def _without(error: AnvylError | None, answer: str) -> str:
    """An answer without the failure that is told after it."""
    return answer.replace(text.clean(str(error)), "").strip() if error else answer


def _grouped(calls: list[Outcome]) -> dict[tuple[str, str], dict[str, Outcome]]:
    """Calls of one tool with the same arguments are one table."""
    groups: dict[tuple[str, str], dict[str, Outcome]] = {}
    for call in calls:
        groups.setdefault((call.tool, str(call.arguments)), {})[call.host] = call
    return groups
