"""The names that rules are compared with: of objects, of images in their several spellings, and of mounts."""

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
    """An object that a call names: its own name, every name it can be called by, and what is written on it."""

    name: str
    names: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    image: str = ""

    @classmethod
    def only(cls, kind: str, name: str) -> ObjectFacts:
        """An object of which nothing is known but what the caller called it."""
        return cls(name, spellings(kind, name))


def spellings(kind: str, name: str) -> tuple[str, ...]:
    """The ways to write a name: an image is `nginx`, `nginx:latest` and `docker.io/library/nginx:latest`."""
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
    # With a digest Docker does not look at the tag.
    ending = f"@{digest}" if digest else f":{tag}"
    return tuple(dict.fromkeys([short, full, short + ending, full + ending]))


@dataclass(frozen=True, slots=True)
class RequestedMount:
    """What a call mounts: a folder of the host (`source` is its plain path) or a volume. Unclear ones have neither."""

    source: str
    read_only: bool
    written: str

    @property
    def volume(self) -> str:
        """The volume's name; empty for a folder."""
        return "" if self.source.startswith("/") else self.source

    def within(self, pattern: str) -> bool:
        """Whether all of it is what the pattern names."""
        what, only = _split_pattern(pattern)
        if not self.source or (only and not self.read_only):
            return False
        return fnmatchcase(self.source, what) or self.source == what.removesuffix("/**")

    def touches(self, pattern: str) -> bool:
        """Whether a part of it could be what the pattern names: a folder holds what is below it."""
        what, only = _split_pattern(pattern)
        if not self.source:
            return True
        if only and not self.read_only:
            return False
        begins = re.split(r"[*?\[]", what)[0]
        folder = self.source.rstrip("/") + "/"
        return self.within(what) or (self.source.startswith("/") and begins.startswith(folder))

    def __str__(self) -> str:
        return self.written


def _split_pattern(pattern: str) -> tuple[str, bool]:
    what = pattern.removesuffix(READ_ONLY)
    return (what if what == "/" else what.rstrip("/")), what != pattern


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
        # Two slashes at the start are kept by normpath.
        source = posixpath.normpath("/" + source.lstrip("/"))
    elif not object_names.is_valid("volume", source):
        return RequestedMount("", False, written)
    modes = {mode for piece in rest[1:] for mode in piece.split(",")}
    return RequestedMount(source, "ro" in modes and "rw" not in modes, written)
