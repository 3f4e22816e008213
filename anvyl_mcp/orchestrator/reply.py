"""What became of a question, in the shape every face reports it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from anvyl_mcp.core.errors import AnvylError, ApprovalNeeded
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.run import Run
from anvyl_mcp.peers.changes import outcome
from anvyl_mcp.peers.fleet import status as words
from anvyl_mcp.peers.fleet.fleet import Outcome

Mode = Literal["model", "rules"]

NO_MODEL = "no language model: "
"""How the note begins that says why the rules answered."""


@dataclass
class Reply:
    """The answer with everything that was done for it. `notes` are for the person: no model, a warning."""

    run: Run
    answer: str = ""
    model: str = ""
    mode: Mode = "rules"
    error: AnvylError | None = None
    usage: dict[str, int] = field(default_factory=lambda: {"requests": 0, "input_tokens": 0, "output_tokens": 0})
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    model_failures: list[str] = field(default_factory=list)
    """Why requests to the model failed, in order."""

    @property
    def question(self) -> Question:
        """What was asked."""
        return self.run.question

    @property
    def calls(self) -> list[Outcome]:
        """One per host touched, in the order in which they ended."""
        return list(self.run.calls)

    @property
    def proposals(self) -> list[Proposal]:
        """Every change that needed a yes."""
        return list(self.run.proposals.values())

    @property
    def waiting(self) -> list[Proposal]:
        """Changes without a decision."""
        return self.run.waiting

    @property
    def hosts(self) -> dict[str, str]:
        """How each host that was asked did: `ok`, or a word and a reason."""
        unable = {host: error for one in self.run.failures for host, error in one.by_host.items()}
        status = {host: words.status_text(error, words.call_status(error)) for host, error in unable.items()}
        return status | outcome.host_statuses(self.calls)

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
        """Why there is no answer, or what of it was not done."""
        return self.error or outcome.failure([*self.calls, *self.run.impossible])

    def as_dict(self) -> dict[str, Any]:
        """The document of `anvyl ask --json`."""
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
