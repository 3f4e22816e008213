"""The gateway: the whole fleet as one MCP server, over stdio or on loopback."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anvyl_mcp.app.catalogue import all_tools
from anvyl_mcp.app.node import Node
from anvyl_mcp.peers.fleet.fleet import OnBehalf

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from mcp.server.lowlevel.server import Server

    from anvyl_mcp.core.settings import Settings
    from anvyl_mcp.peers.connection.listing import ToolListing

LOCAL_TOKEN_FILE = "gateway.token"
"""In the run folder: a token for programs of the same user, where the system cannot identify the caller."""


@dataclass(frozen=True)
class OfferedTools:
    """The tools of the gateway, from which prompts choose those that a caller may use."""

    tools: Mapping[str, ToolListing]
    caller: Callable[[ServerRequestContext[Any]], OnBehalf]

    def allowed_tools(self, ctx: ServerRequestContext[Any]) -> list[str]:
        """Return the names of the tools that the caller of a request may use."""
        scopes = self.caller(ctx).scopes
        return [name for name, tool in self.tools.items() if tool.scope in scopes]


def build_gateway(node: Node) -> Server[Any]:
    """Build the MCP server with the toolsets of the settings."""
    from anvyl_mcp.peers.gateway import gateway
    from anvyl_mcp.server.auth.callers import caller_of
    from anvyl_mcp.server.protocol.prompts import add_prompts
    from anvyl_mcp.server.toolsets import offered_tools

    settings = node.settings
    chosen = offered_tools(all_tools(), toolsets=settings.toolsets, extra=settings.tools, read_only=settings.read_only)
    names = {tool.name for tool in chosen}
    offered = {name: listing for name, listing in node.fleet.catalogue.items() if name in names}

    def on_behalf_of(ctx: ServerRequestContext[Any]) -> OnBehalf:
        caller = caller_of(ctx.request)
        client = ctx.session.client_params
        name = client.client_info.name if client and caller.how == "local" else caller.name
        return OnBehalf(name, caller.scopes)

    server = gateway.build(node.fleet, offered, who=on_behalf_of, refresh=node.refresh_local_host)
    add_prompts(server, OfferedTools(offered, on_behalf_of), node.fleet.select)
    return server


async def serve_stdio(settings: Settings) -> None:
    """Serve the fleet over stdin and stdout, until stdin is closed."""
    from anvyl_mcp.server.protocol.message_check import stdio

    node = Node(settings)
    server = build_gateway(node)
    try:
        async with stdio() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
    finally:
        await node.aclose()


async def serve_http(settings: Settings, *, on_ready: Callable[[list[str]], None]) -> bool:
    """Serve the fleet over HTTP on this machine, until stopped. Returns whether Ctrl-C stopped it.

    Raises:
        Conflict: the port is in use.
    """
    from anvyl_mcp.server.http import listener
    from anvyl_mcp.server.http.app import build_local_app
    from anvyl_mcp.server.http.authentication import make_verifier

    node = Node(settings)
    server = build_gateway(node)
    sockets = listener.listen("127.0.0.1", [settings.gateway_port])
    urls = [listener.url_of(one) for one in sockets]
    app = build_local_app(
        server,
        node.engine,
        node.state,
        name=node.local.name,
        verifier=make_verifier(settings),
        local_token=settings.run_dir / LOCAL_TOKEN_FILE,
    )
    host = listener.make_server(app, server, on_ready=lambda: on_ready([url for url in urls if "[" not in url]))
    try:
        await host.serve(sockets)
    finally:
        await node.aclose()
        for one in sockets:
            one.close()
    return host.stopped_by == signal.SIGINT
