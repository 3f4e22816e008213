"""Every tool this version knows, in its own words: what a model, the rules and the commands read."""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anvyl_mcp import __version__
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.peers.connection.listing import ToolListing

if TYPE_CHECKING:
    from anvyl_mcp.peers.fleet.fleet import Fleet
    from anvyl_mcp.server.tool import Tool

PACKAGE = Path(__file__).parents[1]


def catalogue(cache_dir: Path) -> dict[str, ToolListing]:
    """The tools by name; kept in a file, so that a direct command need not import what declares them."""
    file = cache_dir / f"tools-{__version__}-{_sources()}.json"
    listed = _cached(file)
    if listed is None:
        listed = _listed()
        _keep(file, listed)
    return {entry["name"]: ToolListing.from_mcp(entry) for entry in listed}


def every_tool(fleet: Fleet | None = None) -> list[Tool]:
    """Every tool this installation could serve; those about the fleet work only with one."""
    from anvyl_mcp.app.fleet_tools import fleet_tools
    from anvyl_mcp.server.toolsets import load_tools

    return [*load_tools(), *fleet_tools(fleet)]


def _listed() -> list[dict[str, Any]]:
    from anvyl_mcp.server.protocol.server import listing

    result = listing(every_tool())
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in result.tools]


def _sources() -> str:
    """Changes with the files that declare tools, and with what is installed, so that no stale listing is met."""
    installed = [Path(entry) for entry in sys.path if entry.endswith("-packages")]
    files = [*sorted((PACKAGE / "server").rglob("*.py")), PACKAGE / "app" / "fleet_tools.py", *installed]
    stamps = ",".join(f"{file.name}:{file.stat().st_mtime_ns}" for file in files if file.exists())
    return hashlib.sha256(f"{PACKAGE},{stamps}".encode()).hexdigest()[:12]


def _cached(file: Path) -> list[dict[str, Any]] | None:
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        return listed if all(entry["name"] for entry in listed) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _keep(file: Path, listed: list[dict[str, Any]]) -> None:
    """A full disk or a read-only home only costs the time to build it again."""
    with suppress(OSError):
        write_atomically(file, json.dumps(listed), durable=False)
