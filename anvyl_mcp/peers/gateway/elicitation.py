"""A person's yes, asked for through the MCP client that wants a change: in a request of its own by the handshake
versions of the protocol, and by the versions after them in an answer that the client has to complete.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp_types import (
    CallToolRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, ApprovalNeeded, Gone
from anvyl_mcp.peers.changes import wording
from anvyl_mcp.peers.fleet.fleet import ExpectedObjects

SECONDS = 600
"""How long a question to a person is good."""
MOST_WAITING = 1000
FORM: dict[str, Any] = {"type": "object", "properties": {}}
"""Nothing to fill in: to accept is the yes."""
QUESTION = "approve"


@dataclass(frozen=True)
class ProposedChange:
    """A change as it is shown, and as it will be made: this tool, these arguments, on these hosts."""

    tool: str
    arguments: Mapping[str, Any]
    hosts: list[str]
    given: Mapping[str, Any]
    expected: Mapping[str, ExpectedObjects] = field(default_factory=dict)
    problems: Mapping[str, AnvylError] = field(default_factory=dict)
    details: tuple[str, ...] = ()
    who: str = ""

    def __str__(self) -> str:
        """What is asked."""
        asked = wording.question(wording.describe(self.tool, self.arguments, self.hosts, self.expected))
        return "\n".join([asked, *self.details])


class Elicitation:
    """Questions to people at clients, each good once."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[float, ProposedChange]] = {}

    def possible(self, ctx: ServerRequestContext[Any]) -> bool:
        """Whether the client says that it can ask its person; one that cannot asks, or does not, before it calls."""
        capabilities = ctx.session.client_capabilities
        able = capabilities.elicitation if capabilities else None
        if able is None or (able.form is None and able.url is not None):
            return False
        return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS or ctx.session.can_send_request

    async def ask(self, ctx: ServerRequestContext[Any], change: ProposedChange) -> InputRequiredResult | None:
        """Ask. None is a yes; a result is what the client completes, and `answered` reads then.

        Raises:
            ApprovalNeeded: it was a no, or no answer.
        """
        if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return self._handed_over(change)
        try:
            with anyio.fail_after(SECONDS):
                said = await ctx.session.elicit_form(str(change), FORM, ctx.request_id)
        except TimeoutError:
            raise _declined(change, "nobody answered") from None
        except (MCPError, ValidationError) as error:
            raise _declined(change, "the client could not ask for a yes") from error
        _check(change, said)
        return None

    def answered(self, params: CallToolRequestParams, who: str) -> ProposedChange | None:
        """The change that a completed request says yes to; None when it is a first request.

        Raises:
            Gone: it does not wait any more.
            ApprovalNeeded: it was a no.
        """
        if params.request_state is None and not params.input_responses:
            return None
        until, change = self._waiting.pop(params.request_state or "", (0.0, None))
        given = params.arguments or {}
        if (
            change is None
            or until < anyio.current_time()
            or (change.tool, change.given, change.who) != (params.name, given, who)
        ):
            raise Gone("this question to a person was answered already, or is too old", hint="call the tool again")
        said = (params.input_responses or {}).get(QUESTION)
        _check(change, said if isinstance(said, ElicitResult) else None)
        return change

    def _handed_over(self, change: ProposedChange) -> InputRequiredResult:
        now = anyio.current_time()
        self._waiting = {state: one for state, one in self._waiting.items() if one[0] >= now}
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.pop(next(iter(self._waiting)))
        state = secrets.token_urlsafe(24)
        self._waiting[state] = (now + SECONDS, change)
        question = ElicitRequest(params=ElicitRequestFormParams(message=str(change), requested_schema=FORM))
        return InputRequiredResult(input_requests={QUESTION: question}, request_state=state)


def _check(change: ProposedChange, said: ElicitResult | None) -> None:
    if said is None:
        raise _declined(change, "the client sent no answer of a person")
    if said.action != "accept":
        raise _declined(change, "the person said no" if said.action == "decline" else "the person did not answer")


def _declined(change: ProposedChange, why: str) -> ApprovalNeeded:
    return ApprovalNeeded(
        f"{why}: `{change.tool}` was not run on {text.join_names(change.hosts)}, nothing was changed",
        hint="do not try again unless the person asks for it",
    )
