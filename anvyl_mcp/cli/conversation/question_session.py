"""One question at the terminal: progress, approval prompts, results of hosts and the answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from anvyl_mcp.cli.conversation.progress_line import ProgressLine, call_label
from anvyl_mcp.cli.runtime import output
from anvyl_mcp.cli.runtime.approval_prompt import ApprovalPrompt, prompt_for_hosts
from anvyl_mcp.cli.runtime.runner import attended
from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Cancelled
from anvyl_mcp.orchestrator.ask import report
from anvyl_mcp.orchestrator.question import Decide, Proposal, Question
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.orchestrator.run import EndReason, Run
from anvyl_mcp.peers.changes import wording
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.history import merged_history

if TYPE_CHECKING:
    from anvyl_mcp.orchestrator.ask.agent import Assistant


SLOW_SECONDS = 1.0
"""The results of the other hosts wait this long for a slow one."""


class QuestionSession:
    """Runs one question. `as_json`: print only one JSON document to stdout."""

    def __init__(self, fleet: Fleet, question: Question, *, yes: bool, as_json: bool = False) -> None:
        """`yes` approves changes proposed before untrusted text was read."""
        self._fleet = fleet
        self._yes = yes
        self._as_json = as_json
        self._begin(question)

    def _begin(self, question: Question) -> None:
        self._printed = 0
        self._slow_timer: asyncio.TimerHandle | None = None
        self._progress = ProgressLine(self._fleet, quiet=self._as_json)
        self._prompt = ApprovalPrompt(self._fleet, yes=self._yes, dry_run=question.dry_run, paused=self._paused)
        attached = self._progress.attached_to(question)
        self._run = Run(
            replace(
                attached, on_proposals=self._ask_approval, on_outcome=lambda one: self._result_arrived(attached, one)
            )
        )

    def _result_arrived(self, attached: Question, outcome: Outcome) -> None:
        """Show results as they come: when all hosts have answered, or after a second without the slow ones."""
        attached.on_outcome(outcome)
        if self._as_json or not sys.stdout.isatty():
            return
        if not self._progress.pending_calls:
            self._show_arrived()
        elif not self._slow_timer:
            self._slow_timer = asyncio.get_running_loop().call_later(SLOW_SECONDS, self._show_arrived)

    def _show_arrived(self) -> None:
        if self._slow_timer:
            self._slow_timer.cancel()
            self._slow_timer = None
        tools = [self._fleet.tool(call.tool) for call in self._run.calls[self._printed :]]
        by_model = bool(self._progress.model) and not self._run.by_rules
        if self._progress.pending_calls and any(tool.name == merged_history.TOOL for tool in tools):
            return  # it is one table, in order of time
        # An answer by the rules contains all results but tables.
        if self._run.stopped or not all(
            tool.reads and (by_model or text.rows_field(tool.output_schema)) for tool in tools
        ):
            return
        with self._progress.paused():
            for name, done in self._fresh():
                output.print_outcomes(self._fleet.tool(name), done, tables_only=not by_model, failures=by_model)

    async def _ask_approval(self, proposals: Sequence[Proposal]) -> None:
        """Report the requested changes that cannot be made, then ask about the others."""
        impossible = wording.failures(self._run.impossible)
        if impossible and attended() and not self._run.question.dry_run:
            with self._paused():
                output.print_message(f"Not possible: {text.join_names(impossible)}.")
        await self._prompt.ask(proposals)

    async def answer(
        self,
        assistant: Callable[[], Awaitable[Assistant]],
        *,
        model: str = "",
        offline: bool = False,
        quickly: Callable[[Run, Decide], Awaitable[Reply | None]] | None = None,
    ) -> Reply:
        """Answer the question, showing progress meanwhile. `quickly`: tried first, without the assistant.

        A question that lacks only a host is asked again with the hosts that the user picks at a prompt.
        """
        while True:
            with self._progress.shown():
                try:
                    reply = await quickly(self._run, self._prompt.decide) if quickly else None
                    if reply is None:
                        ready = await assistant()
                        reply = await ready.ask(self._run, decide=self._prompt.decide, model=model, offline=offline)
                finally:
                    if self._slow_timer:
                        self._slow_timer.cancel()
            changed = any(not self._reads(call.tool) for call in self._run.calls)
            hosts = "" if self._as_json or changed else await prompt_for_hosts(self._fleet, reply.error)
            if not hosts:
                return reply
            self._begin(replace(self._run.question, host=hosts))

    def interrupted_reply(self) -> Reply:
        """Reply after Ctrl-C: what was changed, what may still happen, and which hosts had not answered."""
        self._progress.break_off()
        changes = [call for call in self._run.calls if call.ok and not self._reads(call.tool)]
        changed = [f"{call_label(call.tool, call.arguments)} on {call.host}" for call in changes]
        pending = self._progress.pending_calls
        unfinished = [f"{label} on {host}" for tool, host, label in pending if not self._reads(tool)]
        silent = list(dict.fromkeys(host for tool, host, _ in pending if self._reads(tool)))
        parts = [
            f"done: {text.join_names(changed)}" if changed else "",
            f"{text.join_names(unfinished)} may still happen; check before you repeat it" if unfinished else "",
            f"{text.join_names(silent)} had not answered" if silent else "",
            "" if changed or unfinished else "nothing was changed",
        ]
        error = Cancelled("interrupted", hint="; ".join(filter(None, parts)))
        self._run.end(EndReason.CANCELLED, error)
        return Reply(self._run, error=error)

    def show(self, reply: Reply) -> None:
        """Print notes, tables, the answer and the error."""
        for note in reply.notes:
            output.print_message(f"note:  {note}")
        if self._as_json:
            output.print_json(reply.as_dict())
        else:
            self._show_results(reply)
        if reply.error is not None:
            output.print_error(reply.error)
        elif not self._run.question.dry_run and any(proposal.covered for proposal in reply.waiting):
            output.print_message("hint:  answer at a terminal, or add --yes")
        elif not self._run.question.dry_run and reply.waiting:
            output.print_message("hint:  --yes does not cover this; answer at a terminal")

    def _show_results(self, reply: Reply) -> None:
        # An answer by the rules includes text results and failures; if every call failed, the errors suffice.
        by_rules = reply.mode == "rules"
        succeeded = reply.error is None and (not reply.calls or any(call.ok for call in reply.calls))
        answer = _without_error(reply.answer, reply.error) if succeeded or not by_rules else ""
        counted = bool(answer) and by_rules and report.HOW_MANY.search(self._run.question.text)
        for name, done in self._fresh():
            # The answer always describes changes, too.
            tool = self._fleet.tool(name)
            if counted and text.rows_field(tool.output_schema):
                continue
            in_answer = bool(answer) and not reply.waiting and (by_rules or not tool.reads)
            output.print_outcomes(tool, done, tables_only=in_answer, failures=not in_answer)
        if by_rules and not reply.waiting:
            answer = self._without_rows(answer)
        if answer:
            output.print_text(answer)

    def _without_rows(self, answer: str) -> str:
        """Remove from an answer the rows that stand above it as a table."""
        for call in (one for one in self._run.calls if one.ok and one.answer.result):
            schema = self._fleet.tool(call.tool).output_schema
            field, result, words = text.rows_field(schema), call.answer.result or {}, text.clean(call.answer.text)
            rows = text.clean(text.format_result({field: result.get(field)}, schema)) if field else ""
            if not result.get(field) or not words.startswith(rows):
                continue
            rest = words.removeprefix(rows).strip("\n")
            for block in (f"{call.host}:\n{words}", f"{call.host}: {words}"):
                answer = answer.replace(block, f"{call.host}: {rest}" if rest else "")
        return "\n".join(line for line in answer.split("\n") if line)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Pause the progress line for a prompt, and print first what a model read before it proposed a change."""
        with self._progress.paused():
            if self._progress.model and not self._run.by_rules and not self._as_json:
                for name, done in self._fresh():
                    output.print_outcomes(self._fleet.tool(name), done)
            yield

    def _fresh(self) -> list[tuple[str, dict[str, Outcome]]]:
        """Results not printed yet, grouped by tool and arguments, in fleet order."""
        calls, self._printed = self._run.calls[self._printed :], len(self._run.calls)
        groups: dict[tuple[str, str], dict[str, Outcome]] = {}
        for call in calls:
            groups.setdefault((call.tool, str(call.arguments)), {})[call.host] = call
        places = {host: place for place, host in enumerate(self._fleet.hosts)}
        return [
            (name, {host: done[host] for host in sorted(done, key=lambda host: places.get(host, len(places)))})
            for (name, _), done in groups.items()
        ]

    def _reads(self, tool: str) -> bool:
        return tool in self._fleet.catalogue and self._fleet.catalogue[tool].reads


def _without_error(answer: str, error: AnvylError | None) -> str:
    """Remove from an answer the error that is printed after it."""
    return answer.replace(text.clean(str(error)), "").strip() if error else answer
