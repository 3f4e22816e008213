"""The page as an MCP App: a panel that clients with the extension show for tools that look at the fleet.

Clients without it get the same text as always. The panel calls tools through its client, so the consent of the client
and of the gateway holds for its buttons as for a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp import MCPError
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp_types import (
    INVALID_PARAMS,
    ListResourcesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    TextResourceContents,
)

from anvyl_mcp.core import web_page
from anvyl_mcp.peers.connection.listing import ToolListing

URI: Final = "ui://anvyl/fleet"
SHOWN_FOR = frozenset({"list_containers", "get_host_resources", "list_updates"})
"""Tools whose results are shown in the panel."""


def tool_meta(tool: str) -> dict[str, Any] | None:
    """Return the `_meta` of a tool in a listing."""
    return {"ui": {"resourceUri": URI}} if tool in SHOWN_FOR else None


def add_panel(server: Server[Any], tools: Mapping[str, ToolListing]) -> None:
    """Serve the panel if a tool that it is shown for is offered."""
    if SHOWN_FOR.isdisjoint(tools):
        return

    async def resources(_: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListResourcesResult:
        panel = Resource(
            uri=URI,
            name="fleet",
            title="Docker hosts",
            description="The hosts and their containers, live",
            mime_type=APP_MIME_TYPE,
            _meta=_PANEL,
        )
        return ListResourcesResult(resources=[panel])

    async def read(_: ServerRequestContext[Any], params: ReadResourceRequestParams) -> ReadResourceResult:
        if str(params.uri) != URI:
            raise MCPError(INVALID_PARAMS, f"there is no resource {params.uri}")
        content = TextResourceContents(uri=URI, mime_type=APP_MIME_TYPE, text=web_page.single_document(), _meta=_PANEL)
        return ReadResourceResult(contents=[content])

    server.add_request_handler("resources/list", PaginatedRequestParams, resources)
    server.add_request_handler("resources/read", ReadResourceRequestParams, read)
    server.extensions[EXTENSION_ID] = {}


_PANEL: Final[dict[str, Any]] = {"ui": {"prefersBorder": True}}
"""Without domains, the client lets the panel connect to nothing."""
