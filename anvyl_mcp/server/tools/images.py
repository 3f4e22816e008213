"""Images on this host."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

from pydantic import Field

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NotFound
from anvyl_mcp.core.values import ports
from anvyl_mcp.server.engine import compat, lookup, pull, timestamps
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.engine.lookup import ImageName
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.tool import KnownBytes, Result, Row, Time, tool

MOST_INSPECTED = 20
"""Images of one list that are inspected; each costs one request to the engine."""


class Image(Row):
    """One image."""

    columns = ("tags", "size", "created", "id")

    id: str
    tags: list[str]
    size: KnownBytes
    created: Time
    ports: list[str] = Field(default=[])


class Images(Result):
    """Images, the newest first."""

    images: list[Image]
    total: int
    more: int = 0


class PulledImage(Result):
    """A pulled image."""

    id: str
    tags: list[str]
    size: KnownBytes
    new: bool

    def text(self) -> str:
        """One line."""
        name = ", ".join(self.tags) or self.id
        size = "" if self.size is None else f", {text.format_size(self.size)}"
        return f"pulled {name}{size}" if self.new else f"{name} was up to date{size}"


class RemovedImage(Result):
    """A removed image, or only removed names while it has others."""

    image: str
    untagged: list[str]
    deleted: int

    def text(self) -> str:
        """One line."""
        return f"removed {self.image}" if self.deleted else f"untagged {self.image}; the image has other names"


@tool(say=["list images", "show images", "image ls"], about="image, tag, pulled, downloaded, untagged")
def list_images(
    engine: Engine,
    name: Annotated[str, Field(description="part of a tag; then also shows exposed ports")] = "",
    limit: Annotated[int, Field(ge=1, le=1000)] = 100,
) -> Images:
    """List images with their tags and sizes."""
    entries = lookup.list_images(engine)
    if name:
        entries = [one for one in entries if any(name.lower() in tag.lower() for tag in lookup.image_tags(one))]
    found = sorted((_image(entry) for entry in entries), key=lambda one: one.created, reverse=True)
    for one in found[:MOST_INSPECTED] if name else ():
        one.ports = _ports(engine, one.id)
    return Images(images=found[:limit], total=len(found), more=max(0, len(found) - limit))


@tool(say=["pull {image}", "pull image {image}", "update image {image}"], changes=True, seconds=600)
def pull_image(
    image: Annotated[str, Field(description="like nginx:1.27", min_length=1, json_schema_extra={"x-makes": "image"})],
    engine: Engine,
    progress: Progress,
) -> PulledImage:
    """Fetch an image from its registry."""
    before = engine.image_id(image)
    pull.pull_image(engine, image, progress)
    now = lookup.find_image(engine, image)
    return PulledImage(
        id=_short(now["Id"]), tags=sorted(lookup.image_tags(now)), size=now["Size"], new=now["Id"] != before
    )


@tool(say=["remove image {image}", "rmi {image}"], destroys=True, seconds=60, rare=True)
def remove_image(
    image: ImageName,
    engine: Engine,
    force: Annotated[bool, Field(description="also when stopped containers use it")] = False,
) -> RemovedImage:
    """Remove an image."""
    found = lookup.find_image(engine, image)
    # Remove by the id that was checked, unless only one of several names is to be removed.
    wanted = image if _has_other_names(found, image) else found["Id"]
    with engine_errors(doing=f"to remove the image `{image}`"):
        gone = engine.client(CHANGE_TIMEOUT).remove_image(wanted, force=force)
    return RemovedImage(
        image=image,
        untagged=[text.clean(entry["Untagged"]) for entry in gone if "Untagged" in entry],
        deleted=sum("Deleted" in entry for entry in gone),
    )


def _has_other_names(found: Mapping[str, Any], image: str) -> bool:
    """Whether the image has names besides this one; an id is not a name."""
    if "@" in image:
        return True
    if found["Id"].removeprefix("sha256:").startswith(image.removeprefix("sha256:")):
        return False
    repositories = {name.rpartition("@")[0] for name in found["RepoDigests"]}
    tags = list(lookup.image_tags(found))
    return len(tags) != 1 or not repositories <= {tags[0].rpartition(":")[0]}


def _ports(engine: Engine, image: str) -> list[str]:
    """Ports that an image exposes; empty if it was removed since it was listed."""
    with suppress(NotFound), engine_errors(missing=lambda: NotFound(f"there is no image `{image}`")):
        found = engine.client().inspect_image(image)  # type: ignore[no-untyped-call]  # the stubs leave it out
        return [text.clean(one) for one in ports.exposed_ports(compat.require_object(found))]
    return []


def _image(entry: Mapping[str, Any]) -> Image:
    return Image(
        id=_short(entry["Id"]),
        tags=sorted(text.clean(tag) for tag in lookup.image_tags(entry)),
        size=entry["Size"],
        created=timestamps.to_iso(entry["Created"]),
    )


def _short(identifier: str) -> str:
    return identifier.removeprefix("sha256:")[:12]
