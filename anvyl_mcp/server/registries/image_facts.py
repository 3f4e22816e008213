"""What an image says about itself: version, age, where its notes are; and how two versions differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.server.engine import compat

VERSION_LABEL = "org.opencontainers.image.version"
SOURCE_LABEL, URL_LABEL = "org.opencontainers.image.source", "org.opencontainers.image.url"
VERSION = re.compile(r"v?(\d{1,8})(?:\.(\d{1,8}))?(?:\.(\d{1,8}))?(?:[-+._][\w.+-]{0,40})?", re.ASCII)
LINK = re.compile(r"https?://[a-zA-Z0-9.-]{1,100}(?::\d{1,5})?(?:/[\w.~/-]{0,200})?", re.ASCII)
"""Links that cannot carry a message: they come from the builder of the image."""
RELEASE_PAGES = {"github.com": "/releases", "gitlab.com": "/-/releases", "codeberg.org": "/releases"}
LEVELS = ("major", "minor", "patch")
FULL = 3
"""Parts of a complete version; a tag like `1.27` moves with every patch."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts about one image, for one platform. `digests`: every digest that identifies it."""

    digests: tuple[str, ...]
    created: str = ""
    version: str = ""
    notes: str = ""


def read_facts(config: Mapping[str, Any], digests: Sequence[str]) -> ImageFacts:
    """Facts from an image's configuration, as a registry or an engine sends it."""
    settings = compat.mapping(config.get("config") or config.get("Config"))
    found = compat.mapping(settings.get("Labels"))
    labels = {str(name): str(value) for name, value in found.items()}
    version = labels.get(VERSION_LABEL, "").strip()
    return ImageFacts(
        digests=tuple(digests),
        created=_time(compat.string(config.get("created") or config.get("Created"))),
        version=version if VERSION.fullmatch(version) else "",
        notes=notes_link(labels),
    )


def notes_link(labels: Mapping[str, str]) -> str:
    """Link to the release notes, if the image names its source or home page."""
    source, url = (labels.get(name, "").strip().removesuffix(".git") for name in (SOURCE_LABEL, URL_LABEL))
    for link in (source, url):
        if LINK.fullmatch(link):
            for host, page in RELEASE_PAGES.items():
                if re.fullmatch(rf"https://{re.escape(host)}/[\w.-]+/[\w./-]*[\w-]", link):
                    return link + page
    return next((link for link in (url, source) if LINK.fullmatch(link)), "")


def kind_of_change(before: str, after: str) -> str:
    """`major`, `minor`, `patch`, `rebuild` for the same version, or empty if one is not a version."""
    old, new = _parts(before), _parts(after)
    if not old or not new:
        return ""
    for level, one, two in zip(LEVELS, old, new, strict=True):
        if one != two:
            return level
    return "rebuild"


def is_version(tag: str) -> bool:
    """Whether a tag is a complete version, which should not move to another release."""
    match = VERSION.fullmatch(tag)
    return bool(match and all(match.group(*range(1, FULL + 1))))


def age_seconds(created: str) -> float | None:
    """Seconds since an image was made; None if it does not say, as in reproducible builds."""
    try:
        then = datetime.fromisoformat(created)
    except ValueError:
        return None
    return (datetime.now(UTC) - then).total_seconds()


def short_digest(digest: str) -> str:
    """The first characters of a digest."""
    return digest.removeprefix("sha256:")[:12]


def _parts(version: str) -> tuple[int, ...]:
    match = VERSION.fullmatch(version)
    return tuple(int(part or 0) for part in match.groups()) if match else ()


def _time(created: str) -> str:
    """An ISO 8601 time in UTC; empty for unset ones."""
    try:
        then = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", created))
    except ValueError:
        return ""
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    if not text.EARLIEST_DATE < then.timestamp() < text.LATEST_DATE:
        return ""
    return then.astimezone(UTC).isoformat(timespec="seconds")
