"""Dispatch of tool calls on this host: find the tool, parse its arguments, pass the gate, run it."""

from __future__ import annotations

import concurrent.futures
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from mcp.server.context import ServerRequestContext

from anvyl_mcp.core.errors import AnvylError, InternalError, OnFailure
from anvyl_mcp.server.auth.callers import caller_of
from anvyl_mcp.server.calls.gate import Gate, effective_caller
from anvyl_mcp.server.calls.idempotency import LOG_HINT, Abandoned
from anvyl_mcp.server.calls.progress_stream import ProgressStream
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.identity import HostIdentity
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.tool import Result, Tool
from anvyl_mcp.server.toolsets import unavailable_tool

log = logging.getLogger(__name__)

Response = TypeVar("Response")

CallHook = Callable[[str, str, float], None]
THREADS = 32
"""Worker threads for tools; more would only wait inside the engine."""
ABANDON_SECONDS = 0.25
"""Seconds to wait for the result of a change whose caller has cancelled."""


def ignore_call(tool: str, outcome: str, seconds: float) -> None:
    """Default no-op metrics hook."""


class Dispatcher:
    """The tools of one server and the only way to run them."""

    def __init__(
        self, tools: Iterable[Tool], dependencies: Mapping[type, object], gate: Gate, on_call: CallHook = ignore_call
    ) -> None:
        """`on_call` is called after every call with the tool, `ok` or the error code, and the duration in seconds."""
        self.tools = {tool.name: tool for tool in tools}
        self._on_call = on_call
        self._dependencies = dependencies
        self._gate = gate
        self._limiter: anyio.CapacityLimiter | None = None

    def allowed_tools(self, ctx: ServerRequestContext[Any]) -> dict[str, Tool]:
        """The tools that the sender of a request may call and see, by name."""
        caller = effective_caller(caller_of(ctx.request), ctx.meta or {})
        shown = (tool for tool in self.tools.values() if not tool.hidden)
        return {tool.name: tool for tool in self._gate.allowed_tools(shown, caller)}

    def response_meta(self, ctx: ServerRequestContext[Any]) -> dict[str, Any]:
        """The `_meta` of every response to the sender of a request."""
        return self._gate.response_meta(effective_caller(caller_of(ctx.request), ctx.meta or {}))

    async def run(
        self,
        ctx: ServerRequestContext[Any],
        name: str,
        arguments: Mapping[str, Any],
        build_response: Callable[[Result], Response],
    ) -> Response:
        """Run a tool for the sender of a request, and build the response from its result.

        Raises:
            AnvylError: it failed; the message is for the caller.
        """
        began, outcome = time.monotonic(), "cancelled"
        try:
            response = build_response(await self._run(ctx, name, arguments))
            outcome = "ok"
            return response
        except AnvylError as error:
            outcome = error.code
            raise
        except Exception as error:
            outcome = InternalError.code
            log.exception("the tool `%s` failed with an unexpected error", name)
            raise InternalError(f"`{name}` failed because of a bug in Anvyl", hint=LOG_HINT) from error
        finally:
            # An unknown name comes from the caller: it must not become a label in the metrics.
            self._on_call(name if name in self.tools else "unknown", outcome, time.monotonic() - began)

    async def _run(self, ctx: ServerRequestContext[Any], name: str, arguments: Mapping[str, Any]) -> Result:
        caller, tool = caller_of(ctx.request), self._find(name)
        # A caller without the tool's scope must not learn its arguments from validation errors.
        parsed = tool.parse(arguments) if caller.may(tool.scope) else arguments
        progress = ProgressStream(ctx.session.report_progress)
        work = partial(self._execute, tool, parsed, progress)
        gated = partial(self._gate.run, caller, tool, parsed, ctx.meta or {}, work)
        return await (progress.run_and_send(gated) if Progress in tool.injected.values() else gated())

    def _find(self, name: str) -> Tool:
        if name not in self.tools:
            identity = self._dependencies.get(HostIdentity)
            host = identity.name if isinstance(identity, HostIdentity) else "this host"
            raise unavailable_tool(name, self.tools, host)
        return self.tools[name]

    async def _execute(self, tool: Tool, arguments: Mapping[str, Any], progress: ProgressStream) -> Result:
        call: Callable[[], Any] = partial(tool.call, arguments, {**self._dependencies, Progress: progress})
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(THREADS)
        engine = self._dependencies.get(Engine) if Engine in tool.injected.values() and tool.safety == "reads" else None
        try:
            async with engine.read_slot() if isinstance(engine, Engine) else nullcontext():
                result = await (call() if tool.is_async else _on_thread(tool, call, self._limiter, progress))
        finally:
            progress.cancel()
        assert isinstance(result, Result)
        return result


async def _on_thread(
    tool: Tool, call: Callable[[], Any], limiter: anyio.CapacityLimiter, progress: ProgressStream
) -> Any:
    """Run a tool on a worker thread. A cancelled read ends at once; a change gets `ABANDON_SECONDS` to finish.

    Raises:
        Abandoned: the caller cancelled the change, and it did not finish in time.
    """
    outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
    try:
        return await anyio.to_thread.run_sync(_run_into, call, outcome, limiter=limiter, abandon_on_cancel=True)
    except anyio.get_cancelled_exc_class():
        progress.cancel()
        if tool.safety == "reads" or outcome.cancel():
            raise
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(concurrent.futures.wait, [outcome], ABANDON_SECONDS)
    if not outcome.done():
        raise Abandoned(
            f"`{tool.name}` was cancelled while it was running: it may still take effect",
            hint="check the current state before you repeat it",
            future=outcome,
        )
    return outcome.result()


def _run_into(call: Callable[[], Any], outcome: concurrent.futures.Future[Any]) -> Any:
    """Run `call` and store its result in `outcome`, also for readers that come later."""
    if not outcome.set_running_or_notify_cancel():
        return None
    with OnFailure(outcome.set_exception):
        result = call()
    outcome.set_result(result)
    return result
