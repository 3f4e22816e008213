"""The application of `anvyl-mcp serve` with the fixtures of the conformance suite added to its tools.

Run as a program, it serves on a free loopback port and prints its URL.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

import anyio
from mcp.server.lowlevel.server import Server
from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp_types import JSONRPCMessage

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.http import listener
from tests.support.conformance.fixtures import fixtures

LISTS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resource_templates",
}
Handler = Callable[[Any, Any], Awaitable[Any]]


class MemoryEventStore(EventStore):
    """In-memory events for resumable streams, which one scenario of the suite needs."""

    def __init__(self) -> None:
        self._events: list[tuple[StreamId, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        self._events.append((stream_id, message))
        return str(len(self._events) - 1)

    async def replay_events_after(self, last_event_id: EventId, send_callback: EventCallback) -> StreamId | None:
        last = int(last_event_id)
        stream = self._events[last][0]
        for number, (of, message) in enumerate(self._events[last + 1 :], last + 1):
            if of == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


def add_fixtures(server: Server[Any]) -> None:
    """Add the fixtures to a server; everything else stays with its own handlers."""
    extra = fixtures()
    fixture_server = extra._lowlevel_server
    tools = {tool.name for tool in extra._tool_manager.list_tools()}
    prompts = {prompt.name for prompt in extra._prompt_manager.list_prompts()}
    uris = {str(resource.uri) for resource in extra._resource_manager.list_resources()}
    is_fixture: dict[str, Callable[[Any], bool]] = {
        "tools/call": lambda params: params.name in tools,
        "prompts/get": lambda params: params.name in prompts,
        "resources/read": lambda params: params.uri in uris or params.uri.startswith("test://template/"),
        "completion/complete": lambda params: getattr(params.ref, "name", "") in prompts,
    }
    for method, entry in list(fixture_server._request_handlers.items()):
        own = server.get_request_handler(method)
        handler: Handler = entry.handler
        if own is not None and method in LISTS:
            handler = _joined(own.handler, entry.handler, LISTS[method])
        elif own is not None and method in is_fixture:
            handler = _shared(own.handler, entry.handler, is_fixture[method])
        elif own is not None:
            continue
        server.add_request_handler(method, entry.params_type, handler)
    # The first middleware is telemetry, which the server already has.
    server.middleware += fixture_server.middleware[1:]
    schema, more = (
        server.get_tool_input_schema,
        {tool.name: tool.parameters for tool in extra._tool_manager.list_tools()},
    )
    assert schema is not None
    server.get_tool_input_schema = lambda name: more.get(name) or schema(name)


def _joined(own: Handler, other: Handler, field: str) -> Handler:
    async def handle(ctx: Any, params: Any) -> Any:
        listed, more = await own(ctx, params), await other(ctx, params)
        getattr(listed, field).extend(getattr(more, field))
        return listed

    return handle


def _shared(own: Handler, other: Handler, is_fixture: Callable[[Any], bool]) -> Handler:
    async def handle(ctx: Any, params: Any) -> Any:
        return await (other if is_fixture(params) else own)(ctx, params)

    return handle


async def main() -> None:
    """Serve until a signal arrives."""
    node = Node(load(), serving=True)
    add_fixtures(node.server)

    async def closed(_: str) -> list[str]:
        return []

    resumable_app = functools.partial(
        node.server.streamable_http_app, event_store=MemoryEventStore(), retry_interval=100
    )
    sockets = listener.listen("127.0.0.1", [0])
    url = listener.url_of(sockets[0])
    with mock.patch.object(node.server, "streamable_http_app", resumable_app):
        app = node.http_app(lambda: url, closed)

    def announce() -> None:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()

    http_server = listener.make_server(app, node.server, on_ready=announce)
    try:
        await http_server.serve(sockets)
    finally:
        await node.aclose()


if __name__ == "__main__":
    anyio.run(main)
