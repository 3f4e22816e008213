"""Newer images for containers, and updates to them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.tool import tool
from anvyl_mcp.server.updates.available import Updates, list_available
from anvyl_mcp.server.updates.image_check import ImageChecker


@tool(
    say=["list updates", "what can be updated", "check for updates", "is there a newer image for {name}"],
    about=(
        "update, upgrade, outdated, out of date, up to date, newer, new version, latest version, newest, "
        "available, release notes, behind"
    ),
    seconds=60,
)
def list_updates(
    engine: Engine,
    checker: ImageChecker,
    name: Annotated[str, Field(description="one container or stack")] = "",
    refresh: Annotated[bool, Field(description="ask registries again")] = False,
) -> Updates:
    """List containers whose image has a newer one in its registry."""
    return list_available(engine, checker, name, refresh=refresh)
