"""Pull images from a registry, with progress reports and cancellation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Cancelled, EngineError, EngineMissing, NotFound
from anvyl_mcp.server.engine.engine import PULL_TIMEOUT, Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.progress import Progress

REPORT_SECONDS = 0.2
NOT_FOUND_PHRASES = (
    "not found",
    "manifest unknown",
    "does not exist",
    "access denied",
    "no matching manifest",
    "denied:",
)


class _LayerProgress:
    """Progress of a pull by layer."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int]] = {}
        self._reported = 0.0
        self._most = 0

    def update(self, event: Mapping[str, Any]) -> None:
        """Process one event of the engine; a layer that is retried keeps its progress."""
        layer, detail = event.get("id"), event.get("progressDetail") or {}
        if not layer or event.get("status") not in ("Downloading", "Download complete", "Pull complete"):
            return
        done, total = self._layers.get(layer, (0, 0))
        total = max(total, int(detail.get("total") or 0) if event["status"] == "Downloading" else 0)
        now = int(detail.get("current") or 0) if event["status"] == "Downloading" else total
        self._layers[layer] = max(done, now), total

    def report(self, progress: Progress, image: str) -> None:
        """Report the total progress, at most a few times a second."""
        done = sum(done for done, _ in self._layers.values())
        if done <= self._most or time.monotonic() - self._reported < REPORT_SECONDS:
            return
        self._most, self._reported = done, time.monotonic()
        total = sum(total for _, total in self._layers.values())
        progress(done, total, f"pulling {image}: {text.format_size(done)} of {text.format_size(total)}")


def ensure_image(engine: Engine, image: str, progress: Progress, *, platform: str = "") -> None:
    """Pull an image if it is missing.

    Raises:
        NotFound: no registry has it, or none can be reached.
    """
    if engine.image_id(image):
        return
    try:
        pull_image(engine, image, progress, platform=platform)
    except (NotFound, EngineError) as error:
        raise NotFound(f"there is no image `{image}` on this host, and {error.message}", hint=error.hint) from error


def pull_image(engine: Engine, image: str, progress: Progress, *, platform: str = "") -> None:
    """Pull an image, with the tag `latest` if it has none; for the engine's own platform by default.

    Raises:
        NotFound: the registry does not have it, or it is private.
        EngineError: the pull failed.
        Cancelled: the caller cancelled.
    """
    layers = _LayerProgress()
    progress(0, None, f"pulling {image}")
    try:
        with engine_errors():
            events = engine.client(PULL_TIMEOUT).pull(
                image,
                tag=None if _has_tag(image) else "latest",
                stream=True,
                decode=True,
                platform=platform or None,
            )
        with engine_errors(), closing(events):
            for event in events:
                if reason := (event.get("errorDetail") or {}).get("message") or event.get("error"):
                    raise _pull_error(image, str(reason))
                if progress.cancelled:
                    raise Cancelled(f"pulling `{image}` was cancelled; the layers pulled so far are kept")
                layers.update(event)
                layers.report(progress, image)
    except EngineMissing:
        raise
    except (NotFound, EngineError) as error:
        if error.__cause__ is None:
            raise
        raise _pull_error(image, error.message) from error


REACH = "check that the host reaches the registry, or see `list_images` for what is here"
HINTS = {
    "basic auth": "log in on the host, as the user who runs the server: docker login",
    "unauthorized": "log in on the host, as the user who runs the server: docker login",
    "authentication required": "log in on the host, as the user who runs the server: docker login",
    "toomanyrequests": "the registry limits pulls: try again later, or log in on the host with docker login",
    "rate limit": "the registry limits pulls: try again later, or log in on the host with docker login",
    "no space left": "free disk space on the host: anvyl prune",
    "HTTP response to HTTPS": "the registry speaks plain HTTP: list it under insecure-registries in daemon.json",
    "x509": "the host does not trust the registry's certificate: put it into /etc/docker/certs.d",
}
"""What to do about a failed pull, by words of the engine's reason."""


def _pull_error(image: str, reason: str) -> AnvylError:
    reason = text.clean(reason).removeprefix("the Docker engine failed: ").strip().rstrip(".")[:300]
    message = f"it could not be pulled: {reason}" if image in reason else f"`{image}` could not be pulled: {reason}"
    if any(sign in reason.lower() for sign in NOT_FOUND_PHRASES):
        return NotFound(message, hint="check its name and tag; a private image needs `docker login` on the host")
    hint = next((words for sign, words in HINTS.items() if sign.lower() in reason.lower()), REACH)
    return EngineError(message, hint=hint)


def _has_tag(image: str) -> bool:
    return ":" in image.rsplit("/", 1)[-1] or "@" in image
