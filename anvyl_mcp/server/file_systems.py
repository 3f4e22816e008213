"""The file systems of this machine, each once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

REPEATED_TYPES = ("squashfs", "overlay")
"""Types of read-only images and container layers."""


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A mounted file system. `free` is less than `total - used` where some is reserved, and `percent` is as in `df`."""

    mount: str
    used: int
    total: int
    free: int
    percent: float


def list_file_systems() -> list[FileSystem]:
    """List real file systems by mount point: bind mounts and container layers repeat the device."""
    seen: dict[str, FileSystem] = {}
    for part in psutil.disk_partitions(all=False):
        # Containers have single files of the machine, like /etc/hosts, as mounts.
        if part.device in seen or part.fstype in REPEATED_TYPES or Path(part.mountpoint).is_file():
            continue
        try:
            found = _file_system(part.mountpoint)
        except OSError:
            continue
        if found.total:
            seen[part.device] = found
    return sorted(seen.values(), key=lambda one: one.mount) if seen else [_file_system("/")]


def _file_system(mount: str) -> FileSystem:
    usage = psutil.disk_usage(mount)
    return FileSystem(mount, usage.used, usage.total, usage.free, usage.percent)
