"""What every call passes on the host that acts: rights, policy, limits and audit. There is no other way to a tool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from anvyl_mcp.core import protocol_keys, text
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
    """Stands in front of the tools of one server."""

    def __init__(
        self,
        audit: Audit,
        limits: Limits,
        policy: Policy,
        changes: Changes,
        key: Callable[[Caller], str] = lambda caller: "",
    ) -> None:
        """`key`: what to tell a caller of this host's key."""
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
        """What travels in the `_meta` of every answer to this caller."""
        if not caller.may("read"):
            return {}
        told = {protocol_keys.HEAD: self._audit.head, protocol_keys.KEY: self._key(caller)}
        return {name: value for name, value in told.items() if value}

    async def run(
        self,
        caller: Caller,
        tool: Tool,
        arguments: Mapping[str, Any],
        told: Mapping[str, Any],
        work: Callable[[], Awaitable[Result]],
    ) -> Result:
        """Do the work of one call, if the caller may; `told` is the request's `_meta`.

        Raises:
            Denied: the caller may not, or a change could not be recorded.
            Busy: too much is going on, or somebody else changes the same object.
        """
        caller = effective_caller(caller, told)
        entering = partial(self._audit.begin, tool.name, who=caller.name, how=caller.how, address=caller.address)
        refused = partial(entering, arguments=dict.fromkeys(list(arguments)[:MAX_NAMES], "…"), changes=False)
        clean = partial(redact_result, tool=tool, arguments=arguments)
        entry: Entry | None = None
        making: PendingChange | None = None
        failure: BaseException | None = None
        try:
            needed = guardrails.needed_scope(tool, arguments)
            async with self._limits.slot(caller, needed if caller.may(needed) else "read"):
                caller.require(needed, self._what(tool, needed, arguments))
                allow = partial(self._policy.check, caller, tool, arguments)
                await self._bind(tool, arguments)
                await allow()
                await self._changes.observer.check_names(tool, arguments)
                CURRENT_CALLER.set(caller)
                CHECK_POLICY.set(partial(self._policy.require, tool, arguments))
                if tool.safety == "reads":
                    # No thread: of a read nothing is written before it ends.
                    operation = _log_text(told.get(protocol_keys.OPERATION))
                    entry = entering(arguments=arguments, operation=operation, changes=False)
                    return clean(await work())
                asked = ChangeRequest.of(told, caller, tool, arguments)
                begin = partial(entering, arguments=arguments, operation=asked.operation, changes=True)
                making = PendingChange(caller, told, asked, allow, begin, work, clean)
                return await self._changes.make(making)
        except BaseException as error:
            failure = error
            raise
        finally:
            if not (making and making.recorded) and not isinstance(failure, Overloaded):
                # What was refused is told by its name: it must not push what was done out of the log. Nor does it
                # stand under an operation id that belongs to another call.
                operation = (
                    "" if isinstance(failure, OperationIdReused) else _log_text(told.get(protocol_keys.OPERATION))
                )
                entry = entry or refused(operation=operation)
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._end, entry, failure, tool.safety != "reads")

    async def _bind(self, tool: Tool, arguments: Mapping[str, Any]) -> None:
        """Make the call about the objects that its names mean now, so that the policy decides on those very objects."""
        BOUND_IDS.set({})
        if self._policy.decides_objects:
            observer = self._changes.observer
            BOUND_IDS.set(await observer.ids(tool, arguments, await observer.objects(tool, arguments)))

    def _what(self, tool: Tool, needed: str, arguments: Mapping[str, Any]) -> str:
        """What the right is needed for, in words; why it is more than the tool usually needs."""
        if needed == tool.scope:
            return f"`{tool.name}`"
        return f"`{tool.name}` ({'; '.join(guardrails.reasons(tool, arguments))})"

    def _end(self, entry: Entry, failure: BaseException | None, changes: bool) -> None:
        outcome, code = outcome_of(failure, changes=changes)
        self._audit.end(entry, outcome, code)


def redact_result(result: Result, tool: Tool, arguments: Mapping[str, Any]) -> Result:
    """A result that holds text written by others, with what looks secret hidden: one place for every such tool."""
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


def effective_caller(caller: Caller, told: Mapping[str, Any]) -> Caller:
    """The caller, with no more rights than the one it says it calls for."""
    if told.get(protocol_keys.ALONE):
        caller = replace(caller, alone=True)
    scopes = told.get(protocol_keys.SCOPES)
    if scopes is None:
        return caller
    allowed = [str(scope) for scope in scopes] if isinstance(scopes, list) else []
    return restrict(caller, allowed, _log_text(told.get(protocol_keys.FOR)))


def _log_text(value: object) -> str:
    """A short text from outside, fit for a log."""
    return text.clean(value)[:MAX_TEXT] if isinstance(value, str) else ""
