"""The way of every call on this host: the tool found, its arguments read, let through the gate, and run to its end."""

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

from anvyl_mcp.core.errors import AnvylError, InternalError
from anvyl_mcp.server.auth.callers import caller_of
from anvyl_mcp.server.calls.gate import Gate, effective_caller
from anvyl_mcp.server.calls.idempotency import Abandoned
from anvyl_mcp.server.calls.progress_stream import ProgressStream
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.tool import Result, Tool
from anvyl_mcp.server.toolsets import unavailable_tool

log = logging.getLogger(__name__)

Response = TypeVar("Response")

CallHook = Callable[[str, str, float], None]
THREADS = 32
"""Engine calls at once; more would only wait inside the engine."""
ABANDON_SECONDS = 0.25
"""Seconds that a change, given up by its caller, has to say how it ended."""


def ignore_call(tool: str, outcome: str, seconds: float) -> None:
    """Nobody counts calls."""


class Dispatcher:
    """The tools of one server, and the only way to run them."""

    def __init__(
        self, tools: Iterable[Tool], dependencies: Mapping[type, object], gate: Gate, called: CallHook = ignore_call
    ) -> None:
        """`called` is told of every call when it ended: the tool, `ok` or an error's code, and the seconds."""
        self.tools = {tool.name: tool for tool in tools}
        self._called = called
        self._dependencies = dependencies
        self._gate = gate
        self._limiter: anyio.CapacityLimiter | None = None

    def allowed_tools(self, ctx: ServerRequestContext[Any]) -> dict[str, Tool]:
        """What the sender of a request may call, by name."""
        caller = effective_caller(caller_of(ctx.request), ctx.meta or {})
        return {tool.name: tool for tool in self._gate.allowed_tools(self.tools.values(), caller)}

    def response_meta(self, ctx: ServerRequestContext[Any]) -> dict[str, Any]:
        """What travels in the `_meta` of every answer to the sender of a request."""
        return self._gate.response_meta(effective_caller(caller_of(ctx.request), ctx.meta or {}))

    async def run(
        self,
        ctx: ServerRequestContext[Any],
        name: str,
        arguments: Mapping[str, Any],
        shape: Callable[[Result], Response],
    ) -> Response:
        """Run a tool for the sender of a request; the result in the shape that the sender wants.

        Raises:
            AnvylError: it failed, with a sentence for the caller.
        """
        began, outcome = time.monotonic(), "cancelled"
        try:
            shaped = shape(await self._run(ctx, name, arguments))
            outcome = "ok"
            return shaped
        except AnvylError as error:
            outcome = error.code
            raise
        except Exception as error:
            outcome = InternalError.code
            log.exception("the tool `%s` failed in a way nobody foresaw", name)
            raise InternalError(
                f"`{name}` failed because of a mistake in Anvyl", hint="the server's log has it"
            ) from error
        finally:
            # A name that no tool has comes from outside: it must not become a name in the figures.
            self._called(name if name in self.tools else "unknown", outcome, time.monotonic() - began)

    async def _run(self, ctx: ServerRequestContext[Any], name: str, arguments: Mapping[str, Any]) -> Result:
        caller, tool = caller_of(ctx.request), self._find(name)
        # A caller without a tool's right learns no more of the tool than that it is denied.
        parsed = tool.parse(arguments) if caller.may(tool.scope) else arguments
        reported = ProgressStream(ctx.session.report_progress)
        work = partial(self._act, tool, parsed, reported)
        gated = partial(self._gate.run, caller, tool, parsed, ctx.meta or {}, work)
        return await (reported.run_and_send(gated) if Progress in tool.injected.values() else gated())

    def _find(self, name: str) -> Tool:
        if name not in self.tools:
            raise unavailable_tool(name, self.tools)
        return self.tools[name]

    async def _act(self, tool: Tool, arguments: Mapping[str, Any], reported: ProgressStream) -> Result:
        call: Callable[[], Any] = partial(tool.call, arguments, {**self._dependencies, Progress: reported})
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(THREADS)
        engine = self._dependencies.get(Engine) if Engine in tool.injected.values() and tool.safety == "reads" else None
        try:
            async with engine.read_slot() if isinstance(engine, Engine) else nullcontext():
                result = await (call() if tool.is_async else _on_thread(tool, call, self._limiter, reported))
        finally:
            reported.cancel()
        assert isinstance(result, Result)
        return result


async def _on_thread(
    tool: Tool, call: Callable[[], Any], limiter: anyio.CapacityLimiter, reported: ProgressStream
) -> Any:
    """Run it on a worker thread. A cancelled caller does not wait for a hung engine; a change has to say how it ended.

    Raises:
        GivenUp: nobody waits for the change any more, and it did not end in time.
    """
    outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
    try:
        return await anyio.to_thread.run_sync(_run_into, call, outcome, limiter=limiter, abandon_on_cancel=True)
    except anyio.get_cancelled_exc_class():
        reported.cancel()
        if tool.safety == "reads" or outcome.cancel():
            raise
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(concurrent.futures.wait, [outcome], ABANDON_SECONDS)
    if not outcome.done():
        raise Abandoned(
            f"`{tool.name}` was given up while it ran: it may still have happened",
            hint="see how things are now before it is repeated",
            ending=outcome,
        )
    return outcome.result()


def _run_into(call: Callable[[], Any], outcome: concurrent.futures.Future[Any]) -> Any:
    """Run it, and keep how it ended for whom comes later."""
    if not outcome.set_running_or_notify_cancel():
        return None
    try:
        ended = call()
    except BaseException as error:
        outcome.set_exception(error)
        raise
    outcome.set_result(ended)
    return ended
