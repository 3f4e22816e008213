"""This host's state as MCP resources, read with its tools through the same gate."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import AnvylError, InvalidInput, NotFound
from anvyl_mcp.core.values.answer_size import MODEL_BYTES
from anvyl_mcp.server.calls.dispatch import Dispatcher
from anvyl_mcp.server.tool import Result, Tool, fit_result

JSON, PLAIN = "application/json", "text/plain"
OLDER_NOT_FOUND = -32002
"""Error code for a missing resource in protocol versions with a handshake."""


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """A kind of resource: its URI or template, and the tools that read it, each under its own key if several."""

    uri: str
    name: str
    description: str
    mime_type: str
    tools: tuple[str, ...]

    @property
    def is_template(self) -> bool:
        """Whether the URI has a placeholder."""
        return "{" in self.uri

    def match(self, uri: str) -> dict[str, str] | None:
        """Return the arguments in a URI of this kind, or None if the URI is not of this kind."""
        pattern = re.escape(self.uri).replace(r"\{name\}", "(?P<name>[^/?#]+)")
        found = re.fullmatch(pattern, uri)
        return {key: unquote(value) for key, value in found.groupdict().items()} if found else None


KINDS = (
    ResourceKind(
        "anvyl://host", "host", "The machine, and how busy it is", JSON, ("get_host_info", "get_host_resources")
    ),
    ResourceKind("anvyl://containers/{name}", "container", "One container in detail", JSON, ("get_container_info",)),
    ResourceKind("anvyl://containers/{name}/logs", "logs", "The last lines it logged", PLAIN, ("get_container_logs",)),
)


def add_resources(server: Server[Any], dispatcher: Dispatcher) -> None:
    """Serve the resources whose tools are offered; without any the server has no resources capability."""
    kinds = [kind for kind in KINDS if any(tool in dispatcher.tools for tool in kind.tools)]

    def readable(ctx: ServerRequestContext[Any], *, templates: bool) -> list[ResourceKind]:
        offered = dispatcher.allowed_tools(ctx)
        return [kind for kind in kinds if kind.is_template == templates and any(one in offered for one in kind.tools)]

    async def resources(ctx: ServerRequestContext[Any], _: PaginatedRequestParams | None) -> ListResourcesResult:
        return ListResourcesResult(
            resources=[
                Resource(uri=kind.uri, name=kind.name, description=kind.description, mime_type=kind.mime_type)
                for kind in readable(ctx, templates=False)
            ]
        )

    async def templates(
        ctx: ServerRequestContext[Any], _: PaginatedRequestParams | None
    ) -> ListResourceTemplatesResult:
        return ListResourceTemplatesResult(
            resource_templates=[
                ResourceTemplate(
                    uri_template=kind.uri, name=kind.name, description=kind.description, mime_type=kind.mime_type
                )
                for kind in readable(ctx, templates=True)
            ]
        )

    async def read(ctx: ServerRequestContext[Any], params: ReadResourceRequestParams) -> ReadResourceResult:
        try:
            kind, arguments = _find(kinds, params.uri)
            text = await _read(dispatcher, ctx, kind, arguments)
        except AnvylError as error:
            raise _protocol_error(error, params.uri, ctx.protocol_version) from error
        contents = TextResourceContents(uri=params.uri, mime_type=kind.mime_type, text=text)
        return ReadResourceResult(contents=[contents])

    if kinds:
        server.add_request_handler("resources/list", PaginatedRequestParams, resources)
        server.add_request_handler("resources/templates/list", PaginatedRequestParams, templates)
        server.add_request_handler("resources/read", ReadResourceRequestParams, read)


def _find(kinds: list[ResourceKind], uri: str) -> tuple[ResourceKind, dict[str, str]]:
    for kind in kinds:
        arguments = kind.match(uri)
        if arguments is not None:
            return kind, arguments
    known = ", ".join(kind.uri for kind in kinds)
    raise NotFound(f"there is no resource `{uri[:200]}` on this host", hint=f"choose {known}")


async def _read(
    dispatcher: Dispatcher, ctx: ServerRequestContext[Any], kind: ResourceKind, arguments: dict[str, str]
) -> str:
    tools = [dispatcher.tools[name] for name in kind.tools if name in dispatcher.tools]
    if kind.mime_type == PLAIN:
        return "\n".join([await dispatcher.run(ctx, tool.name, arguments, partial(_text, tool)) for tool in tools])
    parts = {
        tool.name.removeprefix("get_host_"): await dispatcher.run(ctx, tool.name, arguments, partial(_fields, tool))
        for tool in tools
    }
    return json.dumps(parts if len(kind.tools) > 1 else next(iter(parts.values())), ensure_ascii=False)


def _text(tool: Tool, result: Result) -> str:
    return fit_result(result, MODEL_BYTES, tool.arguments.model_fields)[0]


def _fields(tool: Tool, result: Result) -> dict[str, Any]:
    return fit_result(result, MODEL_BYTES, tool.arguments.model_fields)[1]


def _protocol_error(error: AnvylError, uri: str, version: str) -> MCPError:
    code = INVALID_PARAMS if isinstance(error, (NotFound, InvalidInput)) else INTERNAL_ERROR
    if isinstance(error, NotFound) and version not in MODERN_PROTOCOL_VERSIONS:
        code = OLDER_NOT_FOUND
    return MCPError(code, str(error), {"uri": uri, protocol_keys.ERROR: error.as_dict()})
