"""One question on its way, and the changes it proposes: what every part of the orchestrator hands on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anvyl_mcp import text
from anvyl_mcp.errors import AnvylError
from anvyl_mcp.peers.fleet import Expected, OnBehalf, Outcome

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
    expected: Mapping[str, Expected] = field(default_factory=dict)
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
        words += [f"you did not say {text.joined([f'`{one}`' for one in self.unsaid])}"] if self.unsaid else []
        words += [f"proposed after reading {self.untrusted}"] if self.untrusted else []
        return "; ".join(words)


async def _unseen(proposals: Sequence[Proposal]) -> None:
    """Nobody looks at what waits together."""


@dataclass
class Question:
    """One question on its way: what was asked, and what has happened so far.

    `host` is the only place it is about; `home` is where it goes unless it names another.
    `earlier` is what the same person said before in this conversation, `turns` what was said and answered, for a
    model; `ended` is why no model is asked any more. `on_model` is told which model is asked, `on_proposals` sees the
    changes that wait together before each is decided, and may change their hosts.
    """

    text: str
    host: str = ""
    home: str = ""
    on_behalf: OnBehalf | None = None
    dry_run: bool = False
    on_call: Callable[[str, Mapping[str, Any], list[str]], None] = lambda tool, arguments, hosts: None
    on_outcome: Callable[[Outcome], None] = lambda outcome: None
    on_model: Callable[[str], None] = lambda name: None
    on_proposals: Callable[[Sequence[Proposal]], Awaitable[None]] = _unseen
    earlier: str = ""
    turns: Sequence[tuple[str, str]] = ()
    calls: list[Outcome] = field(default_factory=list)
    proposals: dict[str, Proposal] = field(default_factory=dict)
    failures: list[AnvylError] = field(default_factory=list)
    unmended: dict[str, AnvylError] = field(default_factory=dict)
    """Why a tool could not be called at all, until it could."""
    impossible: list[Outcome] = field(default_factory=list)
    """Changes that the rules made of the words and that could not even be proposed; no host is asked for them."""
    spent: Counter[str] = field(default_factory=Counter)
    untrusted: str = ""
    set_aside: list[str] = field(default_factory=list)
    """Changes that a model proposed and a question that only looks cannot have meant, in words."""
    ended: str = ""
    read_as: str = ""
    """What the rules took words for that are no phrase."""
    by_rules: bool = False
    """Whether the calls being made are the rules' own, which are made of the person's words alone."""

    def asked_of(self, host: str) -> Question:
        """The same question about other hosts, from its beginning."""
        return Question(
            self.text, host=host, home=self.home, dry_run=self.dry_run, earlier=self.earlier, turns=self.turns
        )
