"""A question and the changes that are proposed for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, InvalidInput
from anvyl_mcp.peers.changes.change_plan import ChangePlan
from anvyl_mcp.peers.fleet.fleet import ExpectedObjects, OnBehalf, Outcome

MOST_CHARACTERS = 4000
"""Of a question; anything longer is probably a pasted file."""


@dataclass
class Proposal:
    """A change that needs approval: the call, its hosts, and the untrusted text that had been read before.

    `expected` is the state of the named objects when it was proposed, by host. `unsaid` lists arguments that are not in
    the question; `root` lists reasons why the call gives root on the host.
    """

    id: str
    tool: str
    arguments: dict[str, Any]
    hosts: list[str]
    untrusted: str = ""
    decision: str = "pending"
    expected: Mapping[str, ExpectedObjects] = field(default_factory=dict)
    problems: Mapping[str, AnvylError] = field(default_factory=dict)
    """Requested hosts on which it cannot be done, with the reason."""
    details: tuple[str, ...] = ()
    """The affected objects, one per line, if the arguments do not name them."""
    unsaid: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    """Why the question seems to ask for something else."""
    root: tuple[str, ...] = ()

    @property
    def asked_for(self) -> bool:
        """Whether the question itself asks for it."""
        return not self.untrusted and not self.unsaid and not self.doubts

    @property
    def covered(self) -> bool:
        """Whether approval in advance (`--yes`) covers it."""
        return self.asked_for and not self.root

    @property
    def why(self) -> str:
        """Why approval in advance does not cover it; empty if it does."""
        words = [*self.doubts, *(f"it {reason}" for reason in self.root)]
        words += [f"you did not say {text.join_names([f'`{one}`' for one in self.unsaid])}"] if self.unsaid else []
        words += [f"proposed after reading {self.untrusted}"] if self.untrusted else []
        return "; ".join(words)

    def decide(self, *, approved: bool) -> None:
        """Record the user's decision."""
        self.decision = "approved" if approved else "denied"

    def replan(self, plan: ChangePlan) -> None:
        """Replace call, hosts and details with those of a plan."""
        self.arguments, self.hosts = plan.arguments, plan.hosts
        self.expected, self.problems, self.details = plan.expected, plan.problems, plan.details


Decide = Callable[[Proposal], Awaitable[bool | None]]
"""Decides about a proposed change: approve, deny, or None to leave it pending."""


async def leave_pending(proposal: Proposal) -> bool | None:
    """Default `Decide`: every change waits for approval."""
    return None


async def _leave_as_proposed(proposals: Sequence[Proposal]) -> None:
    """Default hook: keep all proposals."""


@dataclass(frozen=True)
class Question:
    """A question, its hosts, the caller it is asked for, and the caller's hooks.

    `host` limits it to some hosts; `home` is the default host. `earlier` holds the user's previous questions in this
    conversation; `turns` holds questions and answers for a model; `asked` is what was typed, if `text` is completed
    from them; `unclear` is what has to be asked back if no model understands which of several things it means.
    `on_proposals` gets all changes of one response before each is decided, and may change their hosts.
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
    unclear: str = ""
    asked: str = ""
    turns: Sequence[tuple[str, str]] = ()


def check_question(question: Question, select: Callable[[str], object]) -> None:
    """Check that a question says something, is not too long, and is about known hosts.

    Raises:
        AnvylError: it is not.
    """
    if not any(letter.isalnum() for letter in text.clean(question.text)):
        raise InvalidInput("there is no question", hint='ask one, like: anvyl ask "list all containers"')
    if len(question.text) > MOST_CHARACTERS:
        raise InvalidInput(f"the question is longer than {MOST_CHARACTERS} characters", hint="ask in a few sentences")
    if question.host:
        select(question.host)
