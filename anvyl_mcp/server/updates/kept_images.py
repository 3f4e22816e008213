"""Images of containers before their updates, kept for a day under tags of their own so that no prune removes them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.server.engine import lookup
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.registries.image_check import LocalImage
from anvyl_mcp.server.updates.records import KEEP_SECONDS

REPOSITORY = "anvyl-kept"
"""Kept images are `anvyl-kept/CONTAINER:SECONDS`, with the time when they were kept."""
TAG = re.compile(rf"{REPOSITORY}/[^:]+:(\d{{9,12}})")


def keep_image(engine: Engine, container: str, image: str) -> None:
    """Give the image that a container had a tag of its own, for a day.

    Raises:
        AnvylError: the engine failed.
    """
    name = re.sub(r"[^a-z0-9]+", "-", container.lower()).strip("-")
    with engine_errors(doing=f"to keep the old image of `{container}`"):
        engine.client().tag(image, f"{REPOSITORY}/{name}", str(int(time.time())), force=True)


def release_images(engine: Engine) -> None:
    """Remove images that were kept for a day, unless they are used or have another tag. Never raises."""
    with suppress(AnvylError):
        images = [(str(entry["Id"]), lookup.image_tags(entry)) for entry in lookup.list_images(engine)]
        for identifier, tags in images:
            if expired := [tag for tag in tags if _is_expired(tag)]:
                _release(engine, identifier, expired, [tag for tag in tags if tag not in expired])


def _is_expired(tag: str) -> bool:
    match = TAG.fullmatch(tag)
    return match is not None and time.time() - int(match[1]) > KEEP_SECONDS


def _release(engine: Engine, identifier: str, expired: Sequence[str], others: Sequence[str]) -> None:
    """Remove the tags of an image, and then the image, unless it has other tags; a used one keeps them for now."""
    if any(one["ImageID"] == identifier for one in engine.containers(all=True)):
        return
    client = engine.client(CHANGE_TIMEOUT)
    for tag in expired:
        with suppress(AnvylError), engine_errors():
            client.remove_image(tag, noprune=True)
    left = None if others else LocalImage.read(engine, identifier)
    if left and len(left.names) == 1:
        # Its tag has moved on, but the digest that it was pulled by still names it. Further ones are not ours.
        with suppress(AnvylError), engine_errors():
            client.remove_image(left.names[0])


def restore_tag(engine: Engine, name: str, image: str) -> None:
    """Let a tag name the image that it named before a pull.

    Raises:
        AnvylError: the engine failed.
    """
    repository, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
    if image and "@" not in name and engine.image_id(name) != image:
        with engine_errors(doing=f"to restore the tag `{name}`"):
            engine.client().tag(image, repository, tag, force=True)
