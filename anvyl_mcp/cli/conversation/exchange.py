"""One question at this terminal: its progress, what is asked about changes, what hosts answered, and the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from anvyl_mcp.cli.conversation.progress_line import Working
from anvyl_mcp.cli.runtime import output
from anvyl_mcp.cli.runtime.approval_prompt import Person, chosen_hosts
from anvyl_mcp.cli.runtime.runner import attended
from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Cancelled
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.orchestrator.run import EndReason, Run
from anvyl_mcp.peers.changes import wording
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome

if TYPE_CHECKING:
    from anvyl_mcp.orchestrator.ask.agent import Assistant


class Exchange:
    """A question and whoever asks it. `as_json`: nothing but one document goes to stdout."""

    def __init__(self, fleet: Fleet, question: Question, *, yes: bool, as_json: bool = False) -> None:
        """`yes` covers what was proposed before text written by others was read."""
        self._fleet = fleet
        self._yes = yes
        self._as_json = as_json
        self._begin(question)

    def _begin(self, question: Question) -> None:
        self._printed = 0
        self._working = Working(self._fleet, quiet=self._as_json)
        self._person = Person(self._fleet, yes=self._yes, dry_run=question.dry_run, aside=self._aside)
        self._run = Run(replace(self._working.following(question), on_proposals=self._look))

    async def _look(self, proposals: Sequence[Proposal]) -> None:
        """Have the person decide, who sees first what of the same order cannot be done."""
        impossible = wording.undone(self._run.impossible)
        if impossible and attended() and not self._run.question.dry_run:
            with self._aside():
                output.talk(f"Not possible: {text.joined(impossible)}.")
        await self._person.look(proposals)

    async def answer(
        self, assistant: Callable[[], Awaitable[Assistant]], *, model: str = "", offline: bool = False
    ) -> Reply:
        """Have it answered; what is waited for stands in one line meanwhile.

        A question that lacks nothing but a host is asked again about the hosts that the person chooses.
        """
        while True:
            with self._working.shown():
                ready = await assistant()
                reply = await ready.ask(self._run, decide=self._person.decide, model=model, offline=offline)
            begun = any(not self._reads(call.tool) for call in self._run.calls)
            hosts = "" if self._as_json or begun else await chosen_hosts(self._fleet, reply.error)
            if not hosts:
                return reply
            self._begin(replace(self._run.question, host=hosts))

    def broken_off(self) -> Reply:
        """Ctrl-C: what was changed stays changed, what was under way may still happen, and who had not answered."""
        self._working.break_off()
        changes = [call for call in self._run.calls if call.ok and not self._reads(call.tool)]
        changed = [f"{self._working.words(call.tool, call.arguments)} on {call.host}" for call in changes]
        under_way = self._working.under_way
        begun = [f"{words} on {host}" for tool, host, words in under_way if not self._reads(tool)]
        asked = list(dict.fromkeys(host for tool, host, _ in under_way if self._reads(tool)))
        words = [
            f"done: {text.joined(changed)}" if changed else "",
            f"{text.joined(begun)} was under way and may still happen: look before you repeat it" if begun else "",
            f"{text.joined(asked)} had not answered" if asked else "",
            "" if changed or begun else "nothing was changed",
        ]
        error = Cancelled("interrupted", hint="; ".join(filter(None, words)))
        self._run.end(EndReason.CANCELLED, error)
        return Reply(self._run, error=error)

    def show(self, reply: Reply) -> None:
        """Print what became of it: its tables, and the sentence that answers it."""
        for note in reply.notes:
            output.talk(f"note:  {note}")
        if self._as_json:
            output.document(reply.as_dict())
        else:
            self._show_results(reply)
        if reply.error is not None:
            output.problem(reply.error)
        elif not self._run.question.dry_run and any(proposal.covered for proposal in reply.waiting):
            output.talk("hint:  answer at a terminal, or add --yes")
        elif not self._run.question.dry_run and reply.waiting:
            output.talk("hint:  --yes does not cover this; answer at a terminal")

    def _show_results(self, reply: Reply) -> None:
        # The rules' answer holds the text forms and who failed; when nothing worked, the errors alone say it better.
        by_rules = reply.mode == "rules"
        worked = reply.error is None and (not reply.calls or any(call.ok for call in reply.calls))
        said = _without(reply.error, reply.answer) if worked or not by_rules else ""
        for name, done in self._fresh():
            # What changed something is always told in the answer, too.
            tool = self._fleet.tool(name)
            told = bool(said) and not reply.waiting and (by_rules or not tool.reads)
            output.outcomes(tool, done, tables_only=told, failures=not told)
        if said:
            output.say(said)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Around what a person is asked, who sees first what a model read before it proposed a change."""
        with self._working.aside():
            if self._working.model and not self._run.by_rules and not self._as_json:
                for name, done in self._fresh():
                    output.outcomes(self._fleet.tool(name), done)
            yield

    def _fresh(self) -> list[tuple[str, dict[str, Outcome]]]:
        """What was not printed yet. Calls of one tool with the same arguments are one table, in the fleet's order."""
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


def _without(error: AnvylError | None, answer: str) -> str:
    """An answer without the failure that is told after it."""
    return answer.replace(text.clean(str(error)), "").strip() if error else answer
