"""The state of answering one question: calls, proposals, failures, and the reason why it ended.

Only methods of `Run` change it; other modules read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

from anvyl_mcp.core.errors import AnvylError, NothingToDo
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.peers.connection.listing import ToolAnswer
from anvyl_mcp.peers.fleet.fleet import Outcome


class Responder(Enum):
    """Origin of a response."""

    MODEL = "model"
    RULES = "rules"
    RESULTS = "results"
    """The answer is composed from results, without model or rules."""


class EndReason(Enum):
    """Why a run makes no further calls."""

    ANSWERED = "answered"
    WAITING_FOR_APPROVAL = "a change waits for approval"
    FAILED = "failed"
    CANCELLED = "cancelled"
    OUT_OF_BUDGET = "it made too many requests"
    UNUSABLE_OUTPUT = "it gave no usable answer"
    NOTHING_TO_DO = "nothing to do"
    NEEDS_CLARIFICATION = "the question is ambiguous"
    REPEATED_CALL = "a call was repeated"
    REPEATED_FAILURE = "a failed call was repeated"
    UNTRUSTED_CHANGE = "a change was proposed after untrusted text was read"


STOP_REASONS = frozenset(
    {
        EndReason.NOTHING_TO_DO,
        EndReason.NEEDS_CLARIFICATION,
        EndReason.REPEATED_CALL,
        EndReason.REPEATED_FAILURE,
        EndReason.UNTRUSTED_CHANGE,
    }
)
"""Reasons to stop requests to a model before it has answered."""


class Run:
    """The state of answering one question. Only the first end reason is kept."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.calls: Sequence[Outcome] = ()
        """Outcomes, one per host, in order of completion."""
        self.proposals: Mapping[str, Proposal] = {}
        """Changes that need approval, by call id."""
        self.failures: Sequence[AnvylError] = ()
        """Errors of calls that could not be made, in order."""
        self.impossible: Sequence[Outcome] = ()
        """Requested changes that could not be proposed, and were sent to no host."""
        self.notes: Sequence[str] = ()
        """What the person should know about how the question was read."""
        self.untrusted = ""
        """Source of the first untrusted text that was read; empty if there was none."""
        self.shown = ""
        """What of the hosts a model was shown before it made a call; empty if nothing."""
        self.interpretation = ""
        """The calls that the rules chose for free wording."""
        self.remarks: Sequence[str] = ()
        """What the rules set aside or decided in an order, for the person who approves it."""
        self.doubts: Sequence[str] = ()
        """Why approval in advance does not cover an order that the rules read."""
        self.end_reason: EndReason | None = None
        self.end_error: AnvylError | None = None
        self.by_rules = True
        """Whether the rules made the last calls, from the question alone; true until a model responds."""
        self.used_rules = False
        """Whether the rules made any response in place of a model."""
        self._composed_from_results = False
        self._unresolved: dict[str, AnvylError] = {}
        self._responses = 0
        self._failed_in: dict[str, int] = {}
        """Number of the response in which a tool last failed."""
        self._made_in: set[tuple[str, int]] = set()
        """Tools that were called, with the number of the response."""
        self._call_counts: Counter[str] = Counter()

    @property
    def waiting(self) -> list[Proposal]:
        """Proposals without a decision."""
        return [proposal for proposal in self.proposals.values() if proposal.decision == "pending"]

    @property
    def stopped(self) -> bool:
        """Whether it ended before a model gave its answer."""
        return self.end_reason in STOP_REASONS

    @property
    def answered_by(self) -> Responder:
        """Origin of the answer."""
        if self._composed_from_results:
            return Responder.RESULTS
        return Responder.RULES if self.by_rules else Responder.MODEL

    @property
    def unresolved(self) -> AnvylError | None:
        """The error of the last failed call whose tool no later response called."""
        return next(reversed(self._unresolved.values()), None)

    @property
    def left_out(self) -> AnvylError | None:
        """The error of a call that could not be made, though another of the same tool and response was."""
        left = [error for tool, error in self._unresolved.items() if (tool, self._failed_in[tool]) in self._made_in]
        return left[-1] if left else None

    @property
    def refused_tools(self) -> frozenset[str]:
        """Tools whose last call could not be made."""
        return frozenset(self._unresolved)

    def reword(self, text: str) -> None:
        """Replace the text of the question, to expand the user's aliases."""
        self.question = replace(self.question, text=text)

    def record_response(self, responder: Responder) -> None:
        """Record the origin of a response. `RESULTS` does not change the origin of the calls."""
        self._composed_from_results = responder is Responder.RESULTS
        self._responses += 1
        if responder is not Responder.RESULTS:
            self.by_rules = responder is Responder.RULES
            self.used_rules = self.used_rules or self.by_rules

    def record_interpretation(self, calls: str) -> None:
        """Record the calls that the rules chose for free wording."""
        self.interpretation = calls

    def record_remarks(self, remarks: Sequence[str], doubts: Sequence[str] = ()) -> None:
        """Record what the rules set aside or decided in an order, and why approval in advance does not cover it."""
        self.remarks, self.doubts = tuple(remarks), tuple(doubts)

    def note(self, words: str) -> None:
        """Add something that the person should know about how the question was read."""
        if words not in self.notes:
            self.notes = [*self.notes, words]

    def count_call(self, kind: str) -> int:
        """Count a call and return the number of calls of its kind."""
        self._call_counts[kind] += 1
        return self._call_counts[kind]

    def begin_call(self, tool: str, arguments: Mapping[str, Any], hosts: Sequence[str]) -> None:
        """Report a call before it is sent."""
        if self._failed_in.get(tool) != self._responses:
            self._unresolved.pop(tool, None)
        self._made_in.add((tool, self._responses))
        self.question.on_call(tool, arguments, list(hosts))

    def end_call(self, outcome: Outcome) -> None:
        """Record and report the outcome on one host."""
        self.calls = [*self.calls, outcome]
        self.question.on_outcome(outcome)

    def fail_call(self, tool: str, error: AnvylError) -> None:
        """Record why a call could not be made."""
        self.failures = [*self.failures, error]
        self._unresolved[tool] = error
        self._failed_in[tool] = self._responses

    def end_with_nothing_to_do(self, error: NothingToDo) -> None:
        """End the run because everything is already in the requested state."""
        self.failures = [*self.failures, error]
        self.end(EndReason.NOTHING_TO_DO, error)

    def record_impossible(self, tool: str, arguments: Mapping[str, Any], error: AnvylError) -> None:
        """Record a requested change that cannot be proposed."""
        self.impossible = [*self.impossible, Outcome("", tool, dict(arguments), ToolAnswer(error=error), 0.0)]

    def record_untrusted(self, source: str) -> None:
        """Record that untrusted text was read."""
        self.untrusted = self.untrusted or source

    def record_shown(self, source: str) -> None:
        """Record what a model was shown of the hosts without a call."""
        self.shown = source

    def set_untrusted_aside(self, tool: str) -> None:
        """Note a change that untrusted text may have caused, without proposing it."""
        self.note(f"`{tool}` was proposed after reading {self.untrusted}")

    def propose(self, proposal: Proposal) -> None:
        """Add a change that needs approval."""
        self.proposals = {**self.proposals, proposal.id: proposal}

    def move_to_end(self, ids: Sequence[str]) -> list[Proposal]:
        """Move the proposals with these ids, in this order, behind all others, and return them."""
        moved = {id_: self.proposals[id_] for id_ in ids}
        self.proposals = {id_: proposal for id_, proposal in self.proposals.items() if id_ not in moved} | moved
        return list(moved.values())

    def end(self, reason: EndReason, error: AnvylError | None = None) -> None:
        """End the run, unless it has already ended."""
        if self.end_reason is None:
            self.end_reason, self.end_error = reason, error

    def finish(self) -> None:
        """End the run after its last response."""
        self.end(EndReason.WAITING_FOR_APPROVAL if self.waiting else EndReason.ANSWERED)
