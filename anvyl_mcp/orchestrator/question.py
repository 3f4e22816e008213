"""A question as it was asked, and the changes that are proposed for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.peers.changes.change_plan import ChangePlan
from anvyl_mcp.peers.fleet.fleet import ExpectedObjects, OnBehalf, Outcome

MOST_CHARACTERS = 4000
"""Of a question; a longer one is a pasted file."""


@dataclass
class Proposal:
    """A change that waits for a yes: what would happen where, and which untrusted text had been read before.

    `expected` is how the objects that it names were on each host when it was proposed. `unsaid` is what of it the
    person did not say, `root` why it is as good as root on the host.
    """

    id: str
    tool: str
    arguments: dict[str, Any]
    hosts: list[str]
    untrusted: str = ""
    decision: str = "pending"
    expected: Mapping[str, ExpectedObjects] = field(default_factory=dict)
    problems: Mapping[str, AnvylError] = field(default_factory=dict)
    """Of the hosts that were asked for, those where it cannot be done, and why."""
    details: tuple[str, ...] = ()
    """What it acts on, a line each, where the arguments do not say it."""
    unsaid: tuple[str, ...] = ()
    root: tuple[str, ...] = ()

    @property
    def asked_for(self) -> bool:
        """Whether the person's own words ask for it."""
        return not self.untrusted and not self.unsaid

    @property
    def covered(self) -> bool:
        """Whether a yes given in advance covers it."""
        return self.asked_for and not self.root

    @property
    def why(self) -> str:
        """Why no yes given in advance covers it; empty when one does."""
        words = [f"it {reason}" for reason in self.root]
        words += [f"you did not say {text.join_names([f'`{one}`' for one in self.unsaid])}"] if self.unsaid else []
        words += [f"proposed after reading {self.untrusted}"] if self.untrusted else []
        return "; ".join(words)

    def decide(self, *, approved: bool) -> None:
        """Record the person's answer."""
        self.decision = "approved" if approved else "denied"

    def replan(self, plan: ChangePlan) -> None:
        """Make it the change that a plan describes."""
        self.arguments, self.hosts = plan.arguments, plan.hosts
        self.expected, self.problems, self.details = plan.expected, plan.problems, plan.details


async def _leave_as_proposed(proposals: Sequence[Proposal]) -> None:
    """Default hook: change no proposal."""


@dataclass(frozen=True)
class Question:
    """What is asked, where, for whom, and which hooks its caller has.

    `host` limits it to some hosts; `home` is the default host. `earlier` is what the same person said before in this
    conversation, `turns` are its questions and answers, for a model. `on_proposals` gets the changes that wait together
    before each is decided, and may choose other hosts for them.
    """

    text: str
    host: str = ""
    home: str = ""
    on_behalf: OnBehalf | None = None
    dry_run: bool = False
    on_call: Callable[[str, Mapping[str, Any], list[str]], None] = lambda tool, arguments, hosts: None
    on_outcome: Callable[[Outcome], None] = lambda outcome: None
    on_model: Callable[[str], None] = lambda name: None
    on_proposals: Callable[[Sequence[Proposal]], Awaitable[None]] = _leave_as_proposed
    earlier: str = ""
    turns: Sequence[tuple[str, str]] = ()
