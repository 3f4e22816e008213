"""The gate that every call passes on the host that runs it: scopes, policy, limits and audit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from anvyl_mcp.core import protocol_keys, text
from anvyl_mcp.core.errors import OnFailure
from anvyl_mcp.core.redaction.redact_text import redact_lines, redact_text
from anvyl_mcp.server.audit.log import Audit, Entry, outcome_of
from anvyl_mcp.server.auth.callers import CURRENT_CALLER, Caller, restrict
from anvyl_mcp.server.auth.limits import Limits, Overloaded
from anvyl_mcp.server.calls.changes import Changes, PendingChange
from anvyl_mcp.server.calls.idempotency import ChangeRequest, OperationIdReused
from anvyl_mcp.server.policy import guardrails
from anvyl_mcp.server.policy.policy import Policy
from anvyl_mcp.server.tool import BOUND_IDS, CHECK_POLICY, Result, Tool

MAX_TEXT = 200
MAX_NAMES = 20


class Gate:
    """Checks and records every call to the tools of one server. There is no other way to a tool."""

    def __init__(
        self,
        audit: Audit,
        limits: Limits,
        policy: Policy,
        changes: Changes,
        key: Callable[[Caller], str] = lambda caller: "",
    ) -> None:
        """`key` returns the pin of the host's current or next key for a caller, or an empty string."""
        self._audit = audit
        self._limits = limits
        self._policy = policy
        self._changes = changes
        self._key = key

    def allowed_tools(self, tools: Iterable[Tool], caller: Caller) -> list[Tool]:
        """The tools that a caller may call."""
        needed = [(tool, guardrails.needed_scope(tool, {})) for tool in tools]
        return [tool for tool, scope in needed if caller.may(scope) and self._policy.may_offer(tool, caller, scope)]

    def response_meta(self, caller: Caller) -> dict[str, Any]:
        """The `_meta` of every response to this caller."""
        if not caller.may("read"):
            return {}
        meta = {protocol_keys.HEAD: self._audit.head, protocol_keys.KEY: self._key(caller)}
        return {name: value for name, value in meta.items() if value}

    async def run(
        self,
        caller: Caller,
        tool: Tool,
        arguments: Mapping[str, Any],
        meta: Mapping[str, Any],
        work: Callable[[], Awaitable[Result]],
    ) -> Result:
        """Run one call if the caller may make it. `meta` is the `_meta` of the request.

        Raises:
            Denied: the caller may not make this call, or a change could not be recorded.
            Busy: a limit is reached, or another change to the same object is running.
        """
        caller = effective_caller(caller, meta)
        begin_entry = partial(self._audit.begin, tool.name, who=caller.name, how=caller.how, address=caller.address)
        refused_entry = partial(begin_entry, arguments=dict.fromkeys(list(arguments)[:MAX_NAMES], "…"), changes=False)
        redact = partial(redact_result, tool=tool, arguments=arguments)
        entry: Entry | None = None
        change: PendingChange | None = None
        failure = OnFailure()
        try:
            with failure:
                needed = guardrails.needed_scope(tool, arguments)
                async with self._limits.slot(caller, needed if caller.may(needed) else "read"):
                    caller.require(needed, self._purpose(tool, needed, arguments))
                    check_policy = partial(self._policy.check, caller, tool, arguments)
                    await self._bind_objects(tool, arguments)
                    await check_policy()
                    await self._changes.observer.check_names(tool, arguments)
                    CURRENT_CALLER.set(caller)
                    CHECK_POLICY.set(partial(self._policy.require, tool, arguments))
                    if tool.safety == "reads":
                        # No thread needed: a read is written to the audit log only when it ends.
                        operation = _log_text(meta.get(protocol_keys.OPERATION))
                        entry = begin_entry(arguments=arguments, operation=operation, changes=False)
                        return redact(await work())
                    request = ChangeRequest.parse(meta, caller, tool, arguments)
                    begin = partial(begin_entry, arguments=arguments, operation=request.operation, changes=True)
                    change = PendingChange(caller, meta, request, check_policy, begin, work, redact)
                    return await self._changes.make(change)
        finally:
            if not (change and change.recorded) and not isinstance(failure.error, Overloaded):
                # A refused call is recorded without its arguments, so that refusals cannot push actions out of the log,
                # and not under an operation id that belongs to another call.
                operation = (
                    "" if isinstance(failure.error, OperationIdReused) else _log_text(meta.get(protocol_keys.OPERATION))
                )
                entry = entry or refused_entry(operation=operation)
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._end, entry, failure.error, tool.safety != "reads")

    async def _bind_objects(self, tool: Tool, arguments: Mapping[str, Any]) -> None:
        """Bind the names in the call to the ids they have now, so that the policy decides on exactly those objects."""
        BOUND_IDS.set({})
        if self._policy.decides_objects:
            observer = self._changes.observer
            BOUND_IDS.set(await observer.ids(tool, arguments, await observer.objects(tool, arguments)))

    def _purpose(self, tool: Tool, needed: str, arguments: Mapping[str, Any]) -> str:
        """What the scope is needed for; names the reasons if the call needs more than the tool usually does."""
        if needed == tool.scope:
            return f"`{tool.name}`"
        return f"`{tool.name}` ({'; '.join(guardrails.reasons(tool, arguments))})"

    def _end(self, entry: Entry, failure: BaseException | None, changes: bool) -> None:
        outcome, code = outcome_of(failure, changes=changes)
        self._audit.end(entry, outcome, code)


def redact_result(result: Result, tool: Tool, arguments: Mapping[str, Any]) -> Result:
    """Hide what looks secret in the result of a tool that returns untrusted text."""
    if not tool.untrusted or arguments.get("reveal"):
        return result
    return type(result).model_validate(_redact(result.model_dump(mode="json")))


def _redact(value: Any) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, list):
        texts = [entry for entry in value if isinstance(entry, str)]
        return redact_lines(texts) if len(texts) == len(value) else [_redact(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _redact(entry) for name, entry in value.items()}
    return value


def effective_caller(caller: Caller, meta: Mapping[str, Any]) -> Caller:
    """The caller, limited to the scopes of the caller on whose behalf it acts."""
    if meta.get(protocol_keys.ALONE):
        caller = replace(caller, alone=True)
    scopes = meta.get(protocol_keys.SCOPES)
    if scopes is None:
        return caller
    allowed = [str(scope) for scope in scopes] if isinstance(scopes, list) else []
    return restrict(caller, allowed, _log_text(meta.get(protocol_keys.FOR)))


def _log_text(value: object) -> str:
    """Clean and shorten a text from a request for the log."""
    return text.clean(value)[:MAX_TEXT] if isinstance(value, str) else ""
