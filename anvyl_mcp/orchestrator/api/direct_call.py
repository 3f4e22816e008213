"""Calls of one tool over HTTP without a question, with the same consent as everywhere.

A read is made at once. A change waits for approval, unless the request approves it and it is of the kind that a command
makes without asking: it destroys nothing, and concerns one host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import anyio.to_thread

from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.core.redaction.redact_text import redact_lines, redact_text
from anvyl_mcp.core.values.arguments import parse_arguments
from anvyl_mcp.orchestrator.api.endpoint import ApiCaller, RequiredScope, require_relay
from anvyl_mcp.orchestrator.api.schemas import Answer, Approval, PendingChange, Waiting, WaitingCall
from anvyl_mcp.orchestrator.approvals import Approvals, PendingApproval, PendingCall, expiry, new_id
from anvyl_mcp.peers.changes import change_plan, outcome, wording
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet, OnBehalf
from anvyl_mcp.peers.fleet.single_host import SingleHostFleet
from anvyl_mcp.peers.fleet.targets import resolve_targets


class DirectCalls:
    """Calls tools of the fleet for callers of the API, and lists what waits for approval. Needs no agent."""

    def __init__(self, fleet: Fleet, approvals: Approvals) -> None:
        self._fleet = fleet
        self._approvals = approvals

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        host: str,
        caller: ApiCaller,
        *,
        approve: bool = False,
        single_host: bool = False,
    ) -> Answer | Waiting:
        """Call one tool with the caller's rights; `single_host`, or a token without relay: on this host only.

        Raises:
            AnvylError: it cannot be called.
        """
        here = self._fleet.local.name
        alone = single_host or not caller.relay
        if alone and host and set(self._fleet.select(host)) - {here}:
            require_relay(caller, here, f"call {host}")
            raise InvalidInput("this request is for this host only", hint="leave `host` out")
        caller.require(cast("RequiredScope", self._fleet.tool(tool).scope), f"`{tool}`")
        fleet = SingleHostFleet(self._fleet) if alone else self._fleet
        rights = OnBehalf(caller.name, caller.scopes)
        made = await make(fleet, tool, arguments, host, rights, approve=approve)
        if made.held is None:
            return made.answer
        await anyio.to_thread.run_sync(self._approvals.save, made.held)
        approval = Approval(
            id=made.held.id, calls=[waiting_call(call) for call in made.held.calls], expires_at=made.held.expires_at
        )
        return Waiting(**made.answer.model_dump(), approval=approval)

    async def pending(self, caller: ApiCaller) -> list[PendingChange]:
        """List the changes that wait for approval, and that this caller may approve."""
        every = await anyio.to_thread.run_sync(self._approvals.list)
        return [pending_change(one) for one in every if self._may_approve(one, caller)]

    def _may_approve(self, pending: PendingApproval, caller: ApiCaller) -> bool:
        """Whether a caller has the scopes for some changes, and may reach their hosts."""
        here = {self._fleet.local.name}
        elsewhere = pending.forwarded is not None or any(set(call.hosts) - here for call in pending.calls)
        scopes = {scope_of(self._fleet, call.tool) for call in pending.calls}
        return scopes <= caller.scopes and (caller.relay or not elsewhere)


@dataclass(frozen=True)
class MadeCall:
    """A call that was made, or one that is held for approval."""

    answer: Answer
    held: PendingApproval | None = None


async def make(
    fleet: Fleet, tool: str, arguments: Mapping[str, Any], host: str, rights: OnBehalf, *, approve: bool
) -> MadeCall:
    """Call a tool on the hosts of a selector, or hold the change.

    Raises:
        InvalidInput: there is no such tool, or an argument is wrong.
        Denied: the caller lacks the scope.
        AnvylError: no host can make it.
    """
    listing = fleet.tool(tool)
    given = parse_arguments(tool, _schema(listing), arguments)
    hosts = await resolve_targets(fleet, listing, given, host)
    if listing.reads:
        done = await fleet.call_many(hosts, tool, given, on_behalf=rights)
        return MadeCall(_answer(done.values(), ""))
    plan = await change_plan.plan_change(fleet, listing, given, hosts, on_behalf=rights)
    if not plan.hosts:
        raise InvalidInput(f"`{tool}` has no host to run on", hint="name one as `host`")
    if approve and listing.safety == "changes" and len(hosts) == 1:
        done = await fleet.call_many(plan.hosts, tool, plan.arguments, on_behalf=rights, expected=plan.expected)
        return MadeCall(_answer(done.values(), "\n".join(wording.report(done.values()))))
    words = wording.describe(tool, plan.arguments, plan.hosts, plan.expected)
    call = PendingCall(tool, plan.arguments, tuple(plan.hosts), plan.expected, details=plan.details)
    held = PendingApproval(new_id(), rights.name, tuple(sorted(rights.scopes)), words, (call,), expiry())
    notes = [f"left out {name}: {error.message}" for name, error in plan.problems.items()]
    return MadeCall(Answer(response=f"Waiting for approval: {words}. Nothing was changed yet.", notes=notes), held)


def _schema(listing: ToolListing) -> dict[str, Any]:
    return {"properties": dict(listing.arguments), "required": list(listing.required)}


def _answer(done: Any, response: str) -> Answer:
    calls = list(done)
    problem = outcome.failure(calls)
    return Answer.model_validate(
        {
            "response": response,
            "calls": outcome.documents(calls),
            "hosts": outcome.host_statuses(calls),
            "error": problem.as_dict() if problem else None,
        }
    )


def scope_of(fleet: Fleet, tool: str) -> RequiredScope:
    """Return the scope that a tool needs: `exec` for unknown tools."""
    listing = fleet.catalogue.get(tool)
    return cast("RequiredScope", listing.scope) if listing else "exec"


def waiting_call(call: PendingCall) -> WaitingCall:
    """Return a pending call as the API shows it for approval."""
    return WaitingCall(
        tool=call.tool,
        arguments=dict(call.arguments),
        hosts=list(call.hosts),
        summary=wording.describe(call.tool, call.arguments, call.hosts, call.expected),
        untrusted=call.untrusted,
        details=list(call.details),
        why=call.why,
    )


def pending_change(pending: PendingApproval) -> PendingChange:
    """Return a pending approval as the API lists it for others than the one who asked: without what looks secret."""
    calls = [WaitingCall.model_validate(_redacted(waiting_call(call).model_dump())) for call in pending.calls]
    return PendingChange(
        id=pending.id,
        calls=calls,
        expires_at=pending.expires_at,
        question=redact_text(pending.question),
        asker=pending.asker,
    )


def _redacted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _redacted(one) for name, one in value.items()}
    if isinstance(value, list):
        return redact_lines(value) if all(isinstance(one, str) for one in value) else [_redacted(one) for one in value]
    return redact_text(value) if isinstance(value, str) else value
