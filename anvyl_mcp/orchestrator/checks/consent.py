"""Decides which consent a change needs, from the words of the question alone.

Approval in advance (`--yes`, `"approve": true`) covers what the question asks for. Objects have to be in the question
literally. So do options, once a model has read something: names, images and numbers may then come from an attacker.
Before that they are the model's own, and only those that reach other objects or the network have to be said. Arguments
that give root on a host are never covered; a tool that gives root, like a command on the host, is covered only if the
rules parsed it from the question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.grounding import FORCE, QuestionWords
from anvyl_mcp.peers.connection.listing import ToolListing

RootReasons = Callable[[str, Mapping[str, Any]], Sequence[str]]
"""Returns the reasons why a call, by its tool and arguments, gives root on its host; none for an ordinary call.

With an empty tool name, only the arguments are checked.
"""


class ConsentLevel(Enum):
    """Approval that a call needs."""

    NONE = "none: it only reads"
    ASK = "approval, possibly in advance"
    EXPLICIT = "approval of exactly this call, with its risks shown"


@dataclass(frozen=True)
class RequiredConsent:
    """Consent that a call needs. `unsaid`: arguments that are not in the question; `root`: why it gives root."""

    level: ConsentLevel
    unsaid: tuple[str, ...] = ()
    root: tuple[str, ...] = ()


REACHING_OPTIONS = frozenset(
    {"image", "command", "network", "ports", "volumes", "compose", "dotenv", "version", "min_age", "watch"}
)
"""Options that reach other objects or the network, or lift a protection: the question always has to contain them."""
STACK_FILE = "compose"
FILES = frozenset({STACK_FILE, "dotenv"})
"""Arguments that are too long to be shown in a reason; what deploying them does is shown with the change."""


def required_consent(
    listing: ToolListing,
    arguments: Mapping[str, Any],
    hosts: Sequence[str],
    *,
    said: str,
    root_reasons: RootReasons,
    hosts_said: bool,
    by_rules: bool,
    nothing_read: bool = False,
) -> RequiredConsent:
    """The consent that a call needs, for a question with the text `said`.

    `hosts_said`: they are in the question, or the only ones that it can mean. `by_rules`: the rules made the call from
    the question, so all arguments are in it. `nothing_read`: the model has seen nothing of the hosts, so its options
    are its own.
    """
    if listing.reads:
        return RequiredConsent(ConsentLevel.NONE)
    if by_rules:
        # The question names the tool, but the user still has to see what its arguments allow.
        root = tuple(root_reasons("", arguments))
        return RequiredConsent(ConsentLevel.EXPLICIT if root else ConsentLevel.ASK, root=root)
    words = QuestionWords(said)
    unsaid = [
        name if name in FILES else f"{name}={text.format_value(value)}"
        for name, value in arguments.items()
        if not (nothing_read and _is_own_option(listing, name))
        and (
            (name in ("command", "image") and value in hosts)  # said, but as a host
            or not words.contain_option(name, value, listing.arguments.get(name, {}), is_name=name in listing.names)
        )
    ]
    if not hosts_said:
        unsaid.append(f"host={','.join(hosts)}")
    root = tuple(root_reasons(listing.name, arguments)) or _by_scope(listing) or _by_file(arguments)
    level = ConsentLevel.EXPLICIT if unsaid or root else ConsentLevel.ASK
    return RequiredConsent(level, tuple(unsaid), root)


def no_root_reasons(tool: str, arguments: Mapping[str, Any]) -> Sequence[str]:
    """Default `RootReasons`: none. Tools with the scope `exec` still need explicit consent."""
    return ()


def _is_own_option(listing: ToolListing, name: str) -> bool:
    """Whether an argument only says how a change is made, or what a new object is called."""
    return name not in {*listing.required, *listing.names, *REACHING_OPTIONS, FORCE}


def _by_file(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    return ("deploys a stack file, which may ask for anything",) if arguments.get(STACK_FILE) else ()


def _by_scope(listing: ToolListing) -> tuple[str, ...]:
    return ("needs the scope `exec`",) if listing.scope == "exec" else ()
