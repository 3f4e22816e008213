"""`anvyl ask`: answers one question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from anvyl_mcp.cli.runtime.runner import run_command
from anvyl_mcp.cli.terminal import interrupts
from anvyl_mcp.core.settings import Settings

if TYPE_CHECKING:
    from anvyl_mcp.core.errors import AnvylError
    from anvyl_mcp.orchestrator.ask.agent import Assistant


def ask_once(text: str, *, host: str, yes: bool, dry_run: bool, as_json: bool, model: str, offline: bool) -> NoReturn:
    """Answer one question and exit with its code."""

    async def work(settings: Settings) -> int:
        from functools import partial

        import anyio.to_thread

        from anvyl_mcp.app.node import open_node
        from anvyl_mcp.cli.conversation import model_note
        from anvyl_mcp.cli.conversation.question_session import QuestionSession
        from anvyl_mcp.orchestrator.ask.quick_answer import answer_quickly
        from anvyl_mcp.orchestrator.question import Question

        async with open_node(settings, lean=True) as node:
            question = Question(text, host=host, dry_run=dry_run)
            session = QuestionSession(node.fleet, question, yes=yes, as_json=as_json)
            interrupts.current.report = lambda: session.show(session.interrupted_reply())

            async def assistant() -> Assistant:
                return await anyio.to_thread.run_sync(node.load_assistant, abandon_on_cancel=True)

            quickly = partial(
                answer_quickly,
                fleet=node.fleet,
                settings=settings,
                model=model,
                offline=offline,
                root_reasons=node.root_reasons,
            )
            reply = await session.answer(assistant, model=model, offline=offline, quickly=quickly)
            interrupts.current.report = lambda: None
            if not as_json:
                reply.notes = model_note.notes_to_show(reply.notes, settings.state_dir)
            session.show(reply)
        return reply.exit_code

    run_command(work, failed=_failure_document(text) if as_json else None)


def _failure_document(text: str) -> Any:
    """Builder of the JSON document of a question that failed before it was asked."""

    def failed(error: AnvylError) -> dict[str, Any]:
        from anvyl_mcp.orchestrator.question import Question
        from anvyl_mcp.orchestrator.reply import Reply
        from anvyl_mcp.orchestrator.run import Run

        return Reply(Run(Question(text)), error=error).as_dict()

    return failed
