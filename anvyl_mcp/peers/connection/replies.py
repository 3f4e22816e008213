"""What hosts reply, read with suspicion: a reply of the wrong shape is an error of theirs, not a crash of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.core.text import clean
from anvyl_mcp.peers.connection.connection_errors import malformed_reply
from anvyl_mcp.peers.connection.listing import ToolAnswer, ToolListing

MOST_PAGES = 50
"""Pages of one listing; a host that offers more never comes to an end."""

_SERVER_INFO = "io.modelcontextprotocol/serverInfo"


def message_in(kind: str, body: bytes) -> dict[str, Any] | None:
    """The JSON-RPC message in an HTTP body of media type `kind`, if there is one."""
    if kind != "application/json":
        return None
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and "jsonrpc" in message else None


def listings(page: Mapping[str, Any]) -> list[ToolListing]:
    """The tools of one page of `tools/list`."""
    with _shape_errors_as_malformed():
        return [ToolListing.from_mcp(tool) for tool in page["tools"]]


def version(discovered: Mapping[str, Any]) -> str:
    """The server's version in a `server/discover` result; empty when it does not say."""
    with _shape_errors_as_malformed():
        return clean(str(discovered.get("_meta", {}).get(_SERVER_INFO, {}).get("version", "")))[:64]


def tool_answer(result: Mapping[str, Any]) -> ToolAnswer:
    """The answer in a `CallToolResult`."""
    if result.get("resultType", "complete") != "complete":
        raise AnvylError("the tool asks questions of its own before it acts", hint="use another MCP client for it")
    with _shape_errors_as_malformed():
        if not isinstance(result["content"], list) or not isinstance(result.get("structuredContent", {}), dict):
            raise malformed_reply()
        return ToolAnswer.from_mcp(result)


@contextmanager
def _shape_errors_as_malformed() -> Iterator[None]:
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise malformed_reply() from error
