"""The catalogue: the definition of every tool of this version, for models, rules and commands."""

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


def load_catalogue(cache_dir: Path) -> dict[str, ToolListing]:
    """Return the tools by name, without the hidden ones."""
    return {name: tool for name, tool in load_listings(cache_dir).items() if not tool.hidden}


def load_listings(cache_dir: Path) -> dict[str, ToolListing]:
    """Return all tools by name. They are cached in a file, so that most commands need not import the toolsets."""
    file = cache_dir / f"tools-{__version__}-{_fingerprint()}.json"
    listed = _read_cache(file)
    if listed is None:
        listed = _list_tools()
        _write_cache(file, listed)
    return {entry["name"]: ToolListing.from_mcp(entry) for entry in listed}


def all_tools(fleet: Fleet | None = None) -> list[Tool]:
    """Return every tool of this installation. Fleet tools can only be called if a fleet is passed."""
    from anvyl_mcp.app.fleet_tools import fleet_tools
    from anvyl_mcp.server.toolsets import load_tools

    return [*load_tools(), *fleet_tools(fleet)]


def served_tools(fleet: Fleet | None = None) -> list[Tool]:
    """Return every tool that can be called, hidden ones too."""
    from anvyl_mcp.server.toolsets import load_hidden_tools

    return [*all_tools(fleet), *load_hidden_tools()]


def _list_tools() -> list[dict[str, Any]]:
    from anvyl_mcp.server.protocol.server import listing

    result = listing(served_tools())
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in result.tools]


def _fingerprint() -> str:
    """Hash the modification times of our sources and of installed packages, to detect a stale cache."""
    installed = [Path(entry) for entry in sys.path if entry.endswith("-packages")]
    files = [*sorted((PACKAGE / "server").rglob("*.py")), PACKAGE / "app" / "fleet_tools.py", *installed]
    stamps = ",".join(f"{file.name}:{file.stat().st_mtime_ns}" for file in files if file.exists())
    return hashlib.sha256(f"{PACKAGE},{stamps}".encode()).hexdigest()[:12]


def _read_cache(file: Path) -> list[dict[str, Any]] | None:
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        return listed if all(entry["name"] for entry in listed) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write_cache(file: Path, listed: list[dict[str, Any]]) -> None:
    """Write the cache if possible. Without it, the next command only takes longer."""
    with suppress(OSError):
        write_atomically(file, json.dumps(listed), durable=False)
