"""What became of a question, in the shape every face reports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from anvyl_mcp.errors import AnvylError, ApprovalNeeded
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.peers.fleet import Outcome

Mode = Literal["model", "rules"]


@dataclass
class Reply:
    """The answer with everything that was done for it. `notes` are for the person: no model, a warning."""

    question: Question
    answer: str = ""
    model: str = ""
    mode: Mode = "rules"
    error: AnvylError | None = None
    usage: dict[str, int] = field(default_factory=lambda: {"requests": 0, "input_tokens": 0, "output_tokens": 0})
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def calls(self) -> list[Outcome]:
        """One per host touched, in the order in which they ended."""
        return self.question.calls

    @property
    def proposals(self) -> list[Proposal]:
        """Every change that needed a yes."""
        return list(self.question.proposals.values())

    @property
    def waiting(self) -> list[Proposal]:
        """Changes nobody decided."""
        return [proposal for proposal in self.proposals if proposal.decision == "pending"]

    @property
    def hosts(self) -> dict[str, str]:
        """How each host that was asked did last: `ok`, or a word and a reason."""
        return {call.host: call.status for call in self.calls}

    @property
    def exit_code(self) -> int:
        """0 done · 1 failed · 2 usage · 3 some hosts failed · 4 not understood · 5 approval needed or denied."""
        if any(proposal.decision != "approved" for proposal in self.proposals) and not self.question.dry_run:
            return ApprovalNeeded.exit_code
        if self.error is not None:
            return self.error.exit_code
        return exit_code(self.calls)

    def as_dict(self) -> dict[str, Any]:
        """The document of `anvyl ask --json`."""
        return {
            "question": self.question.text,
            "answer": self.answer,
            "model": self.model,
            "mode": self.mode,
            "calls": [call_as_dict(call) for call in self.calls],
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
            "error": self.error.as_dict() if self.error else None,
        }


def call_as_dict(call: Outcome) -> dict[str, Any]:
    """One call on one host, for JSON."""
    return {
        "tool": call.tool,
        "arguments": dict(call.arguments),
        "host": call.host,
        "ok": call.ok,
        "result": call.answer.result,
        "error": str(call.error) if call.error else None,
        "seconds": call.seconds,
    }


def exit_code(calls: list[Outcome]) -> int:
    """What the last call of each kind on each host says: 0 all ok, 1 none, 3 some."""
    last: Mapping[tuple[str, str], Outcome] = {(call.tool, call.host): call for call in calls}
    failed = [call for call in last.values() if not call.ok]
    if not failed:
        return 0
    return 1 if len(failed) == len(last) else 3
