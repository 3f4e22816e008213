"""What every call passes on the host that acts: rights, limits, and the audit log. There is no other way to a tool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from anvyl_mcp import meta, text
from anvyl_mcp.server import guardrails
from anvyl_mcp.server.audit import Audit, Entry, outcome_of
from anvyl_mcp.server.callers import Caller, implied
from anvyl_mcp.server.limits import Limits
from anvyl_mcp.server.tool import Result, Tool

LONGEST_WORD = 200


class Gate:
    """Stands in front of the tools of one server."""

    def __init__(self, audit: Audit, limits: Limits, folders: Collection[Path] = ()) -> None:
        """`folders`: what must not be mounted into a container, beside what the guardrails name anyway."""
        self._audit = audit
        self._limits = limits
        self._folders = folders

    def offered(self, tools: Iterable[Tool], caller: Caller) -> list[Tool]:
        """The tools that a caller may call."""
        return [tool for tool in tools if caller.may(guardrails.needed_scope(tool, {}))]

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
            Busy: too much is going on.
        """
        caller = on_behalf(caller, told)
        entry = partial(
            self._audit.begin,
            tool.name,
            arguments,
            who=caller.name,
            how=caller.how,
            address=caller.address,
            operation=_word(told.get(meta.OPERATION)),
        )
        started: Entry | None = None
        failure: BaseException | None = None
        changes = tool.safety != "reads"
        try:
            needed = guardrails.needed_scope(tool, arguments, folders=self._folders)
            caller.require(needed, self._what(tool, needed, arguments))
            async with self._limits.slot(caller, needed):
                started = await anyio.to_thread.run_sync(partial(entry, changes=changes))
                return await work()
        except BaseException as error:
            failure = error
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._end, started or entry(changes=False), failure, changes)

    def _what(self, tool: Tool, needed: str, arguments: Mapping[str, Any]) -> str:
        """What the right is needed for, in words; why it is more than the tool usually needs."""
        if needed == tool.scope:
            return f"`{tool.name}`"
        return f"`{tool.name}` ({'; '.join(guardrails.reasons(tool, arguments, folders=self._folders))})"

    def _end(self, entry: Entry, failure: BaseException | None, changes: bool) -> None:
        outcome, code = outcome_of(failure, changes=changes)
        self._audit.end(entry, outcome, code)


def on_behalf(caller: Caller, told: Mapping[str, Any]) -> Caller:
    """The caller, with no more rights than the one it says it calls for."""
    scopes = told.get(meta.SCOPES)
    if scopes is None:
        return caller
    allowed = implied(str(scope) for scope in scopes) if isinstance(scopes, list) else frozenset[str]()
    asking = _word(told.get(meta.FOR))
    name = f"{asking} through {caller.name}" if asking else caller.name
    return replace(caller, name=name, scopes=caller.scopes & allowed)


def _word(value: object) -> str:
    """A short text from outside, fit for a log."""
    return text.clean(value)[:LONGEST_WORD] if isinstance(value, str) else ""
