"""Names that rules are matched against: of objects, images in all their spellings, and mounts."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from anvyl_mcp.server.policy import object_names

MOUNT_ARGUMENTS = ("volumes", "volume", "mounts", "mount", "binds", "bind")
HUB = "docker.io"
READ_ONLY = ":ro"


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """An object named in a call: its own name, all names it is known by, its labels, and the image of a container."""

    name: str
    names: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    image: str = ""

    @classmethod
    def from_name(cls, kind: str, name: str) -> ObjectFacts:
        """An object of which only the name in the call is known."""
        return cls(name, spellings(kind, name))


def spellings(kind: str, name: str) -> tuple[str, ...]:
    """All spellings of a name: an image is `nginx`, `nginx:latest` and `docker.io/library/nginx:latest`."""
    if kind != "image" or not name:
        return (name,) if name else ()
    rest, _, digest = name.partition("@")
    colon = rest.rfind(":")
    repository, tag = (rest[:colon], rest[colon + 1 :]) if colon > rest.rfind("/") else (rest, "latest")
    first, slash, path = repository.partition("/")
    registry = slash and ("." in first or ":" in first or first == "localhost")
    domain, path = (first, path) if registry else (HUB, repository)
    domain = HUB if domain == "index.docker.io" else domain
    full = f"{domain}/{path}" if "/" in path or domain != HUB else f"{domain}/library/{path}"
    short = full.removeprefix(f"{HUB}/").removeprefix("library/")
    # Docker ignores the tag if there is a digest.
    ending = f"@{digest}" if digest else f":{tag}"
    return tuple(dict.fromkeys([short, full, short + ending, full + ending]))


@dataclass(frozen=True, slots=True)
class RequestedMount:
    """A mount in a call: `source` is a normalized host path, a volume name, or empty if unclear."""

    source: str
    read_only: bool
    text: str

    @property
    def volume(self) -> str:
        """The volume's name; empty for a folder."""
        return "" if self.source.startswith("/") else self.source

    def within(self, pattern: str) -> bool:
        """Whether the pattern covers the whole mount."""
        path, read_only = _split_pattern(pattern)
        if not self.source or (read_only and not self.read_only):
            return False
        return fnmatchcase(self.source, path) or self.source == path.removesuffix("/**")

    def touches(self, pattern: str) -> bool:
        """Whether the pattern may cover a part of the mount: a folder includes everything below it."""
        path, read_only = _split_pattern(pattern)
        if not self.source:
            return True
        if read_only and not self.read_only:
            return False
        begins = re.split(r"[*?\[]", path)[0]
        folder = self.source.rstrip("/") + "/"
        return self.within(path) or (self.source.startswith("/") and begins.startswith(folder))

    def __str__(self) -> str:
        return self.text


def _split_pattern(pattern: str) -> tuple[str, bool]:
    path = pattern.removesuffix(READ_ONLY)
    return (path if path == "/" else path.rstrip("/")), path != pattern


def mounts_of(arguments: Mapping[str, Any]) -> list[RequestedMount]:
    """The mounts among a call's arguments."""
    found = []
    for name in MOUNT_ARGUMENTS:
        value = arguments.get(name)
        entries = value if isinstance(value, list | tuple) else [value] if isinstance(value, str) and value else []
        found += [_parse_mount(str(entry)) for entry in entries]
    return found


def _parse_mount(written: str) -> RequestedMount:
    source, *rest = written.split(":")
    if "," in source or "\\" in written or not source:
        return RequestedMount("", False, written)
    if source.startswith("/"):
        # normpath keeps two leading slashes.
        source = posixpath.normpath("/" + source.lstrip("/"))
    elif not object_names.is_valid("volume", source):
        return RequestedMount("", False, written)
    modes = {mode for piece in rest[1:] for mode in piece.split(",")}
    return RequestedMount(source, "ro" in modes and "rw" not in modes, written)
