"""Run: what becomes of one question, from the first call to the reason why no more are made.

Only methods of `Run` change it; every other module reads it.
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


class Source(Enum):
    """Who made the last response."""

    MODEL = "model"
    RULES = "rules"
    RESULTS = "results"
    """Neither: the answer is worded from the results."""


class EndReason(Enum):
    """Why a run makes no further calls."""

    ANSWERED = "answered"
    WAITING_FOR_APPROVAL = "a change waits for approval"
    FAILED = "failed"
    CANCELLED = "cancelled"
    OUT_OF_BUDGET = "it went round in circles"
    UNUSABLE_OUTPUT = "it gave no usable answer"
    NOTHING_TO_DO = "nothing to do"
    NEEDS_CLARIFICATION = "the person has to say more"
    REPEATED_CALL = "a call was made again"
    REPEATED_FAILURE = "a call failed again"
    UNTRUSTED_CHANGE = "a change was proposed after untrusted text was read"


STOPS = frozenset(
    {
        EndReason.NOTHING_TO_DO,
        EndReason.NEEDS_CLARIFICATION,
        EndReason.REPEATED_CALL,
        EndReason.REPEATED_FAILURE,
        EndReason.UNTRUSTED_CHANGE,
    }
)
"""Reasons to ask a model no more, although it has not given its answer."""


class Run:
    """One question being answered. The first reason to end it is the one that counts."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.calls: Sequence[Outcome] = ()
        """One per host, in the order in which they ended."""
        self.proposals: Mapping[str, Proposal] = {}
        """Changes that need an approval, by call id."""
        self.failures: Sequence[AnvylError] = ()
        """Why calls could not be made, in order."""
        self.impossible: Sequence[Outcome] = ()
        """Changes that the person's words ask for and that could not be proposed; no host was asked for them."""
        self.set_aside: Sequence[str] = ()
        """Changes that a model proposed although the question only reads, in words."""
        self.untrusted = ""
        """The first text written by others that was read; empty if none was."""
        self.interpretation = ""
        """The calls that the rules took free wording for."""
        self.end_reason: EndReason | None = None
        self.end_error: AnvylError | None = None
        self.by_rules = True
        """Whether the rules made the last calls, from the person's words alone; true until a model responds."""
        self.used_rules = False
        """Whether the rules made any response in place of a model."""
        self._worded_from_results = False
        self._uncallable: dict[str, AnvylError] = {}
        self._spent: Counter[str] = Counter()

    @property
    def waiting(self) -> list[Proposal]:
        """Proposals without a decision."""
        return [proposal for proposal in self.proposals.values() if proposal.decision == "pending"]

    @property
    def stopped(self) -> bool:
        """Whether it was ended before a model gave its answer."""
        return self.end_reason in STOPS

    @property
    def answered_by(self) -> Source:
        """Who words the answer."""
        if self._worded_from_results:
            return Source.RESULTS
        return Source.RULES if self.by_rules else Source.MODEL

    @property
    def unresolved(self) -> AnvylError | None:
        """The last error of a tool that could not be called at all since."""
        return next(reversed(self._uncallable.values()), None)

    def reword(self, text: str) -> None:
        """Put the person's own words for things into plain names, before anything reads the question."""
        self.question = replace(self.question, text=text)

    def responded(self, source: Source) -> None:
        """Record who made a response. `RESULTS` leaves open who made the calls before it."""
        self._worded_from_results = source is Source.RESULTS
        if source is not Source.RESULTS:
            self.by_rules = source is Source.RULES
            self.used_rules = self.used_rules or self.by_rules

    def interpret(self, words: str) -> None:
        """Record the calls that the rules take free wording for."""
        self.interpretation = words

    def spend(self, kind: str) -> int:
        """Count a call and return how many of its kind there are now."""
        self._spent[kind] += 1
        return self._spent[kind]

    def begin_call(self, tool: str, arguments: Mapping[str, Any], hosts: Sequence[str]) -> None:
        """Report a call before the hosts get it."""
        self._uncallable.pop(tool, None)
        self.question.on_call(tool, arguments, list(hosts))

    def end_call(self, outcome: Outcome) -> None:
        """Record and report what one host answered."""
        self.calls = [*self.calls, outcome]
        self.question.on_outcome(outcome)

    def refuse_call(self, tool: str, error: AnvylError) -> None:
        """Record why a call could not be made."""
        self.failures = [*self.failures, error]
        self._uncallable[tool] = error

    def do_nothing(self, error: NothingToDo) -> None:
        """End the run, because all that was asked for is so already."""
        self.failures = [*self.failures, error]
        self.end(EndReason.NOTHING_TO_DO, error)

    def rule_out(self, tool: str, arguments: Mapping[str, Any], error: AnvylError) -> None:
        """Record a change that was asked for and cannot be proposed."""
        self.impossible = [*self.impossible, Outcome("", tool, dict(arguments), ToolAnswer(error=error), 0.0)]

    def read_untrusted(self, source: str) -> None:
        """Record that text written by others was read."""
        self.untrusted = self.untrusted or source

    def report_untrusted(self, tool: str) -> None:
        """Keep a change that untrusted text may have put forward out of the proposals."""
        self.set_aside = [*self.set_aside, f"`{tool}` was proposed after reading {self.untrusted}"]

    def propose(self, proposal: Proposal) -> None:
        """Add a change that needs an approval."""
        self.proposals = {**self.proposals, proposal.id: proposal}

    def move_to_end(self, ids: Sequence[str]) -> list[Proposal]:
        """Put some proposals in this order, after all others, and return them."""
        chosen = {id_: self.proposals[id_] for id_ in ids}
        self.proposals = {id_: one for id_, one in self.proposals.items() if id_ not in chosen} | chosen
        return list(chosen.values())

    def end(self, reason: EndReason, error: AnvylError | None = None) -> None:
        """End the run, unless it has ended before."""
        if self.end_reason is None:
            self.end_reason, self.end_error = reason, error

    def finish(self) -> None:
        """End the run after its last response."""
        self.end(EndReason.WAITING_FOR_APPROVAL if self.waiting else EndReason.ANSWERED)
