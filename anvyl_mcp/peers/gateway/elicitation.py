"""Ask the person at the MCP client to approve a change: by an elicitation request in the protocol versions with a
handshake, and by an input-required result in later versions.
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
"""How long a prompt stays valid."""
MOST_WAITING = 1000
FORM: dict[str, Any] = {"type": "object", "properties": {}}
"""A form without fields: accepting it is the approval."""
QUESTION = "approve"


@dataclass(frozen=True)
class ProposedChange:
    """A call exactly as it is shown and will be made. `called`: the tool of the request, which may be one
    for containers although the change is for a whole stack.
    """

    tool: str
    arguments: Mapping[str, Any]
    hosts: list[str]
    given: Mapping[str, Any]
    called: str
    expected: Mapping[str, ExpectedObjects] = field(default_factory=dict)
    problems: Mapping[str, AnvylError] = field(default_factory=dict)
    details: tuple[str, ...] = ()
    who: str = ""

    def __str__(self) -> str:
        """The prompt for the person."""
        prompt = wording.question(wording.describe(self.tool, self.arguments, self.hosts, self.expected))
        return "\n".join([prompt, *self.details])


class Elicitation:
    """Prompts to people at clients, each valid once."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[float, ProposedChange]] = {}

    def possible(self, ctx: ServerRequestContext[Any]) -> bool:
        """Whether the client supports form elicitation; other clients are expected to ask before they call a tool."""
        capabilities = ctx.session.client_capabilities
        able = capabilities.elicitation if capabilities else None
        if able is None or (able.form is None and able.url is not None):
            return False
        return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS or ctx.session.can_send_request

    async def ask(self, ctx: ServerRequestContext[Any], change: ProposedChange) -> InputRequiredResult | None:
        """Ask for approval. Returns None if approved, or a result that the client completes for `answered`.

        Raises:
            ApprovalNeeded: the person declined or did not answer.
        """
        if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return self._input_required(change)
        try:
            with anyio.fail_after(SECONDS):
                result = await ctx.session.elicit_form(str(change), FORM, ctx.request_id)
        except TimeoutError:
            raise _declined(change, "the person did not answer") from None
        except (MCPError, ValidationError) as error:
            raise _declined(change, "the client could not ask for approval") from error
        _check_accepted(change, result)
        return None

    def answered(self, params: CallToolRequestParams, who: str) -> ProposedChange | None:
        """Return the change that a completed request approves; None for a first request.

        Raises:
            Gone: the prompt was answered before, or has expired.
            ApprovalNeeded: the person declined.
        """
        if params.request_state is None and not params.input_responses:
            return None
        until, change = self._waiting.pop(params.request_state or "", (0.0, None))
        given = params.arguments or {}
        if (
            change is None
            or until < anyio.current_time()
            or (change.called, change.given, change.who) != (params.name, given, who)
        ):
            raise Gone("this prompt was answered already, or has expired", hint="call the tool again")
        result = (params.input_responses or {}).get(QUESTION)
        _check_accepted(change, result if isinstance(result, ElicitResult) else None)
        return change

    def _input_required(self, change: ProposedChange) -> InputRequiredResult:
        now = anyio.current_time()
        self._waiting = {state: one for state, one in self._waiting.items() if one[0] >= now}
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.pop(next(iter(self._waiting)))
        state = secrets.token_urlsafe(24)
        self._waiting[state] = (now + SECONDS, change)
        question = ElicitRequest(params=ElicitRequestFormParams(message=str(change), requested_schema=FORM))
        return InputRequiredResult(input_requests={QUESTION: question}, request_state=state)


def _check_accepted(change: ProposedChange, result: ElicitResult | None) -> None:
    if result is None:
        raise _declined(change, "the client sent no answer from a person")
    if result.action != "accept":
        raise _declined(change, "the person declined" if result.action == "decline" else "the person did not answer")


def _declined(change: ProposedChange, reason: str) -> ApprovalNeeded:
    return ApprovalNeeded(
        f"{reason}: `{change.tool}` was not run on {text.join_names(change.hosts)}; nothing was changed",
        hint="do not try again unless the person asks for it",
    )
