"""Completion of container names in prompt arguments and resource URIs."""

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
from anvyl_mcp.server.protocol.prompts import PROMPTS, invalid_params
from anvyl_mcp.server.protocol.resources import KINDS
from anvyl_mcp.server.tool import Result

CACHE_SECONDS = 5.0
"""Users type several letters a second."""
LISTING = "list_containers"
MAX_LISTED = 1000
MAX_VALUES = 100
"""The protocol's limit per response."""


class ContainerNames:
    """Cached names of this host's containers, from the tool that lists them."""

    def __init__(self, dispatcher: Dispatcher, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._names: list[str] = []
        self._expires = float("-inf")
        self._lock: anyio.Lock | None = None

    async def of(self, ctx: ServerRequestContext[Any]) -> list[str]:
        """Return the names; empty if the caller may not list containers or the engine does not answer."""
        if LISTING not in self._dispatcher.allowed_tools(ctx):
            return []
        if self._lock is None:
            self._lock = anyio.Lock()
        async with self._lock:
            if self._clock() >= self._expires:
                try:
                    self._names = await self._dispatcher.run(ctx, LISTING, {"all": True, "limit": MAX_LISTED}, _names)
                except AnvylError:
                    # An error would only disturb typing; the call that follows reports it.
                    return []
                self._expires = self._clock() + CACHE_SECONDS
        return self._names


def add_completions(server: Server[Any], dispatcher: Dispatcher) -> None:
    """Serve completions of container names if the server lists containers."""
    names = ContainerNames(dispatcher)

    async def complete(ctx: ServerRequestContext[Any], params: CompleteRequestParams) -> CompleteResult:
        known = await names.of(ctx) if _is_container_name(params) else []
        typed = params.argument.value.lower()
        matches = [name for name in known if name.lower().startswith(typed)]
        values = matches[:MAX_VALUES]
        return CompleteResult(
            completion=Completion(values=values, total=len(matches), has_more=len(matches) > len(values))
        )

    if LISTING in dispatcher.tools:
        server.add_request_handler("completion/complete", CompleteRequestParams, complete)


def _names(found: Result) -> list[str]:
    return sorted(one["name"] for one in found.model_dump()["containers"])


def _is_container_name(params: CompleteRequestParams) -> bool:
    """Whether the completed argument is a container name.

    Raises:
        MCPError: there is no such prompt or resource template.
    """
    if isinstance(params.ref, PromptReference):
        prompts = {prompt.name: prompt for prompt in PROMPTS}
        if params.ref.name not in prompts:
            raise invalid_params(f"there is no prompt `{params.ref.name[:200]}`", params.ref.name, prompts)
        return params.argument.name == "name" and "name" in prompts[params.ref.name].arguments
    templates = [kind.uri for kind in KINDS if kind.is_template]
    if params.ref.uri not in templates:
        raise invalid_params(f"there is no resource template `{params.ref.uri[:200]}`", params.ref.uri, templates)
    return params.argument.name == "name"
