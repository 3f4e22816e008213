"""Images on this host."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field

from anvyl_mcp import text
from anvyl_mcp.server.engine import Engine
from anvyl_mcp.server.tool import Bytes, Result, Row, Time, tool
from anvyl_mcp.server.translate import engine_errors


class Image(Row):
    """One image."""

    columns = ("tags", "size", "created", "id")

    id: str
    tags: list[str]
    size: Bytes
    created: Time


class Images(Result):
    """Images, the newest first."""

    images: list[Image]
    total: int
    more: int = 0


@tool(say=["list images", "show images"])
def list_images(engine: Engine, limit: Annotated[int, Field(ge=1, le=1000)] = 100) -> Images:
    """List images with their tags and sizes."""
    with engine_errors():
        entries = engine.client().images()
    found = sorted((_image(entry) for entry in entries), key=lambda one: one.created, reverse=True)
    return Images(images=found[:limit], total=len(found), more=max(0, len(found) - limit))


def _image(entry: Mapping[str, Any]) -> Image:
    tags = [text.clean(tag) for tag in entry.get("RepoTags") or () if tag != "<none>:<none>"]
    return Image(
        id=entry["Id"].removeprefix("sha256:")[:12],
        tags=sorted(tags),
        size=entry["Size"],
        created=datetime.fromtimestamp(entry["Created"], UTC).isoformat(),
    )
