"""The result of a question, in the form that the command line, chat and HTTP API share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from anvyl_mcp.core.errors import AnvylError, ApprovalNeeded, NothingToDo
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.run import EndReason, Run
from anvyl_mcp.peers.changes import outcome
from anvyl_mcp.peers.fleet import status
from anvyl_mcp.peers.fleet.fleet import Outcome

Mode = Literal["model", "rules"]

NO_MODEL = "no language model: "
"""Prefix of the note that explains why the rules answered."""


@dataclass
class Reply:
    """The answer, the run that produced it, and notes for the user, like warnings."""

    run: Run
    answer: str = ""
    model: str = ""
    mode: Mode = "rules"
    error: AnvylError | None = None
    usage: dict[str, int] = field(default_factory=lambda: {"requests": 0, "input_tokens": 0, "output_tokens": 0})
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    model_failures: list[str] = field(default_factory=list)
    """Errors of requests to the model, in order."""

    @property
    def question(self) -> Question:
        """The question of the run."""
        return self.run.question

    @property
    def calls(self) -> list[Outcome]:
        """Outcomes of all calls, one per host, in order of completion."""
        return list(self.run.calls)

    @property
    def proposals(self) -> list[Proposal]:
        """Changes that needed approval."""
        return list(self.run.proposals.values())

    @property
    def waiting(self) -> list[Proposal]:
        """Changes without a decision."""
        return self.run.waiting

    @property
    def hosts(self) -> dict[str, str]:
        """Status by host: `ok`, or a word and a reason."""
        failed = {host: error for failure in self.run.failures for host, error in failure.by_host.items()}
        statuses = {host: status.status_text(error, status.call_status(error)) for host, error in failed.items()}
        return statuses | outcome.host_statuses(self.calls)

    def fail(self, error: AnvylError) -> None:
        """End the run with an error."""
        self.run.end(EndReason.NOTHING_TO_DO if isinstance(error, NothingToDo) else EndReason.FAILED, error)
        self.error = error

    def finish(self, seconds: float) -> None:
        """Record the time it took; that nothing has to be done is an answer and no error."""
        if isinstance(self.error, NothingToDo):
            self.answer, self.error = f"{self.error.message}.", None
        self.seconds = round(seconds, 3)

    @property
    def exit_code(self) -> int:
        """0 done · 1 failed · 2 usage · 3 some hosts failed · 4 not understood · 5 approval needed or denied."""
        if any(proposal.decision != "approved" for proposal in self.proposals) and not self.question.dry_run:
            return ApprovalNeeded.exit_code
        if self.error is not None:
            return self.error.exit_code
        return self.problem.exit_code if self.problem else 0

    @property
    def problem(self) -> AnvylError | None:
        """Why there is no answer, or which calls failed."""
        return self.error or outcome.failure([*self.calls, *self.run.impossible])

    def as_dict(self) -> dict[str, Any]:
        """The reply as JSON document, for `anvyl ask --json`."""
        return {
            "question": self.question.text,
            "answer": self.answer,
            "model": self.model,
            "mode": self.mode,
            "calls": outcome.documents(self.calls),
            "approvals": [
                {
                    "tool": proposal.tool,
                    "arguments": proposal.arguments,
                    "hosts": proposal.hosts,
                    "decision": proposal.decision,
                }
                for proposal in self.proposals
            ],
            "hosts": self.hosts,
            "usage": self.usage,
            "seconds": self.seconds,
            "notes": self.notes,
            "error": self.problem.as_dict() if self.problem else None,
        }
