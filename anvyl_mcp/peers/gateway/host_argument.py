"""The `host` argument that the gateway adds to each tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anvyl_mcp.core.values.arguments import coerce_list
from anvyl_mcp.peers.connection.listing import ToolListing


def schema(listing: ToolListing, host: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments' schema with `host`, without our own `x-` keys."""
    properties = {
        name: {key: value for key, value in schema.items() if not key.startswith("x-")}
        for name, schema in listing.arguments.items()
    }
    if listing.toolset != "fleet":
        properties["host"] = dict(host)
    whole: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if listing.required:
        whole["required"] = list(listing.required)
    return whole


def selector(host: object) -> str:
    """Return the `host` argument as a selector; it may be a list, or a list as JSON text."""
    hosts = coerce_list(host)
    return ",".join(map(str, hosts)) if isinstance(hosts, list) else str(hosts or "")
