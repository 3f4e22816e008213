"""Images of containers before their updates, kept for a day under tags of their own so that no prune removes them."""

from __future__ import annotations

import re
import time
from contextlib import suppress

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.server.engine import lookup
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
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
    """Remove the tags of images that were kept for a day; the images go with the next prune. Never raises."""
    with suppress(AnvylError):
        for entry in lookup.list_images(engine):
            for tag in lookup.image_tags(entry):
                match = TAG.fullmatch(tag)
                if match and time.time() - int(match[1]) > KEEP_SECONDS:
                    with suppress(AnvylError), engine_errors():
                        engine.client().remove_image(tag, noprune=True)


def restore_tag(engine: Engine, name: str, image: str) -> None:
    """Let a tag name the image that it named before a pull.

    Raises:
        AnvylError: the engine failed.
    """
    repository, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
    if image and "@" not in name and engine.image_id(name) != image:
        with engine_errors(doing=f"to restore the tag `{name}`"):
            engine.client().tag(image, repository, tag, force=True)
