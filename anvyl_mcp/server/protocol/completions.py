"""Container names, completed while a person types them into a prompt or a resource's address."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp_types import CompleteRequestParams, CompleteResult, Completion, PromptReference

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.server.calls.dispatch import Dispatcher
from anvyl_mcp.server.protocol.prompts import PROMPTS, invalid
from anvyl_mcp.server.protocol.resources import KINDS
from anvyl_mcp.server.tool import Result

FRESH = 5.0
"""Seconds that names are kept: a person types several letters a second."""
LISTING = "list_containers"
MOST_LISTED = 1000
MOST_VALUES = 100
"""The protocol allows no more in one answer."""


class ContainerNames:
    """The names of this host's containers, asked for with the tool that lists them."""

    def __init__(self, calls: Dispatcher, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls = calls
        self._clock = clock
        self._known: list[str] = []
        self._until = float("-inf")
        self._asking: anyio.Lock | None = None

    async def of(self, ctx: ServerRequestContext[Any]) -> list[str]:
        """The names; none for a caller who may not list containers, and none when the engine does not answer."""
        if LISTING not in self._calls.allowed_tools(ctx):
            return []
        if self._asking is None:
            self._asking = anyio.Lock()
        async with self._asking:
            if self._clock() >= self._until:
                try:
                    self._known = await self._calls.run(ctx, LISTING, {"all": True, "limit": MOST_LISTED}, _names)
                except AnvylError:
                    # Nobody reads an error while typing; the call that follows tells it.
                    return []
                self._until = self._clock() + FRESH
        return self._known


def add_completions(server: Server[Any], calls: Dispatcher) -> None:
    """Serve completions of container names, where the server lists containers."""
    names = ContainerNames(calls)

    async def complete(ctx: ServerRequestContext[Any], params: CompleteRequestParams) -> CompleteResult:
        known = await names.of(ctx) if _wants_name(params) else []
        typed = params.argument.value.lower()
        fitting = [name for name in known if name.lower().startswith(typed)]
        shown = fitting[:MOST_VALUES]
        return CompleteResult(
            completion=Completion(values=shown, total=len(fitting), has_more=len(fitting) > len(shown))
        )

    if LISTING in calls.tools:
        server.add_request_handler("completion/complete", CompleteRequestParams, complete)


def _names(found: Result) -> list[str]:
    return sorted(one["name"] for one in found.model_dump()["containers"])


def _wants_name(params: CompleteRequestParams) -> bool:
    """Whether a container's name is asked for.

    Raises:
        MCPError: there is no such prompt or template.
    """
    if isinstance(params.ref, PromptReference):
        prompts = {prompt.name: prompt for prompt in PROMPTS}
        if params.ref.name not in prompts:
            raise invalid(f"there is no prompt `{params.ref.name[:200]}`", params.ref.name, prompts)
        return params.argument.name == "name" and "name" in prompts[params.ref.name].arguments
    templates = [kind.uri for kind in KINDS if kind.is_template]
    if params.ref.uri not in templates:
        raise invalid(f"there is no resource template `{params.ref.uri[:200]}`", params.ref.uri, templates)
    return params.argument.name == "name"
