"""Parse the replies of hosts defensively: a malformed reply is reported as an error of the host."""

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
"""Pages read per listing, so that an endless one stops."""

_SERVER_INFO = "io.modelcontextprotocol/serverInfo"


def message_in(kind: str, body: bytes) -> dict[str, Any] | None:
    """Return the JSON-RPC message in an HTTP body of media type `kind`, if there is one."""
    if kind != "application/json":
        return None
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and "jsonrpc" in message else None


def listings(page: Mapping[str, Any]) -> list[ToolListing]:
    """Parse one page of `tools/list`."""
    with _shape_errors_as_malformed():
        return [ToolListing.from_mcp(tool) for tool in page["tools"]]


def version(discovered: Mapping[str, Any]) -> str:
    """Return the server's version from a `server/discover` result; empty if missing."""
    with _shape_errors_as_malformed():
        return clean(str(discovered.get("_meta", {}).get(_SERVER_INFO, {}).get("version", "")))[:64]


def tool_answer(result: Mapping[str, Any]) -> ToolAnswer:
    """Parse a `CallToolResult`."""
    if result.get("resultType", "complete") != "complete":
        raise AnvylError("the tool needs more input before it acts", hint="use an MCP client that supports elicitation")
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
