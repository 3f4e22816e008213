"""Which places of this host a container must not be given lightly, however their path is written."""

from __future__ import annotations

import glob
import os
import posixpath
import stat
import unicodedata
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

SENSITIVE: tuple[str, ...] = (
    "/boot",
    "/dev",
    "/etc",
    "/home/*/.*",
    "/host_mnt",
    "/private/etc",
    "/private/var/run",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/Users/*/.*",
    "/Users/*/Library",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/incus",
    "/var/lib/kubelet",
    "/var/lib/lxd",
    "/var/lib/rancher",
    "/var/run",
)
"""Read or write, itself, anything in it, and any folder that holds it: the root folder holds all of them."""
SYSTEM: tuple[str, ...] = (
    "/Applications",
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/Library",
    "/libx32",
    "/sbin",
    "/snap",
    "/System",
    "/usr",
    "/var/lib/dpkg",
    "/var/lib/rpm",
    "/var/lib/systemd",
    "/var/spool",
)
"""When it may be written: programs and jobs that the host itself runs."""

Place = tuple[str, ...]
"""The names along a path, in which `*` stands for any."""


class Places:
    """The sensitive places of this host; `folders` are some more of them."""

    def __init__(self, folders: Collection[Path] = ()) -> None:
        # Path.expanduser fails for a user without a home.
        home = os.path.realpath(os.path.expanduser("~"))  # noqa: PTH111
        own = [_literal(os.path.realpath(folder)) for folder in folders]
        self._sensitive = (*_globs(SENSITIVE), (*_literal(home), ".*"), *own)
        self._system = _globs(SYSTEM)

    def sensitive(self, typed: str) -> str:
        """Words for what a mount of that path would open; empty when it is an ordinary folder."""
        if not typed.startswith("/") or any(unicodedata.category(char)[0] == "C" for char in typed) or "\\" in typed:
            return f"`{ascii(typed)[1:-1]}`, which is neither the name of a volume nor a plain path"
        for path in _meanings(typed):
            if path is None:
                return f"`{typed}`, which cannot be followed to where it leads"
            if _touches(path, self._sensitive):
                return f"`{typed}` of the host" + ("" if path == typed else f", which is or holds `{path}`")
            if path.endswith(".sock") or _is_socket(path):
                return f"`{typed}`, which is a socket of the host"
        return ""

    def system(self, typed: str) -> str:
        """Words for what writing to that path would open."""
        touched = any(path and _touches(path, self._system) for path in _meanings(typed))
        return f"`{typed}` of the host so that it can be written" if touched else ""


def _meanings(typed: str) -> Iterator[str | None]:
    """Every path that the kernel or the engine may take it for; None when that cannot be known.

    The engine shortens `..` by the letters alone, the kernel follows links first.
    """
    lexical = "/" + posixpath.normpath(typed).lstrip("/")
    yield lexical
    for path in dict.fromkeys((lexical, typed)):
        yield _followed(path)


def _followed(path: str) -> str | None:
    try:
        return os.path.realpath(path, strict=True)
    except FileNotFoundError:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return None


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(Path(path).stat().st_mode)
    except OSError:
        return False


def _touches(path: str, patterns: Collection[Place]) -> bool:
    """Whether the path is, is inside of, or holds one of the places."""
    parts = _parts(path)
    return any(all(fnmatchcase(part, wanted) for part, wanted in zip(parts, place, strict=False)) for place in patterns)


def _parts(path: str) -> Place:
    """The names along a path; in one case and one Unicode form, since not every file system tells them apart."""
    return tuple(part for part in unicodedata.normalize("NFKC", path).casefold().split("/") if part)


@lru_cache(maxsize=8)
def _globs(places: tuple[str, ...]) -> tuple[Place, ...]:
    """The places as they are written, and where they really are: `/home` may be a link to another disk."""
    found: list[Place] = []
    for place in places:
        fixed = place.split("/*", 1)[0]
        found += [_parts(place), _literal(os.path.realpath(fixed)) + _parts(place.removeprefix(fixed))]
    return tuple(dict.fromkeys(found))


def _literal(folder: str) -> Place:
    return tuple(glob.escape(part) for part in _parts(folder))
