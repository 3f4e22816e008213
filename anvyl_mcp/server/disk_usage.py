"""The engine's account of its disk, in the two shapes it has had."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anvyl_mcp.server.tool import Bytes, Row

Raw = Mapping[str, Any]


class Kept(Row):
    """What the engine keeps of one kind."""

    columns = ("kind", "count", "active", "size", "reclaimable")

    kind: str
    count: int
    active: int
    size: Bytes
    reclaimable: Bytes


NEW = {
    "images": ("ImageUsage", "ImagesUsage", "ImagesDiskUsage"),
    "containers": ("ContainerUsage", "ContainersUsage", "ContainersDiskUsage"),
    "volumes": ("VolumeUsage", "VolumesUsage", "VolumesDiskUsage"),
    "build cache": ("BuildCacheUsage", "BuildCacheDiskUsage"),
}
"""What each kind is called since API 1.52; releases differ in the spelling."""


def read(answer: Raw) -> list[Kept]:
    """Images, containers, volumes and build cache, whichever shape the answer has."""
    if any(name in answer for names in NEW.values() for name in names):
        return [
            _summed(kind, next((answer[name] or {} for name in names if name in answer), {}))
            for kind, names in NEW.items()
        ]
    return [
        _images(answer),
        _counted("containers", answer.get("Containers"), "SizeRw", lambda one: one.get("State") == "running"),
        _counted(
            "volumes",
            [one.get("UsageData") or {} for one in answer.get("Volumes") or ()],
            "Size",
            lambda one: one.get("RefCount", 0) > 0,
        ),
        _counted(
            "build cache",
            [one for one in answer.get("BuildCache") or () if not one.get("Shared")],
            "Size",
            lambda one: bool(one.get("InUse")),
        ),
    ]


def _summed(kind: str, usage: Raw) -> Kept:
    return Kept(
        kind=kind,
        count=usage.get("TotalCount", 0),
        active=usage.get("ActiveCount", 0),
        size=max(0, usage.get("TotalSize", 0)),
        reclaimable=max(0, usage.get("Reclaimable", 0)),
    )


def _images(answer: Raw) -> Kept:
    """Layers are shared, so what images in use need is taken from the sum of all layers.

    Podman has an entry for each name of an image, and no sum.
    """
    images = list({one.get("Id"): one for one in answer.get("Images") or []}.values())
    size = answer.get("LayersSize") or sum(one["Size"] for one in images)
    active = [one for one in images if one.get("Containers", 0) > 0]
    used = sum(one["Size"] - max(0, one.get("SharedSize", 0)) for one in active)
    return Kept(
        kind="images", count=len(images), active=len(active), size=size, reclaimable=max(0, size - used) if size else 0
    )


def _counted(kind: str, entries: Sequence[Raw] | None, size: str, is_active: Callable[[Raw], bool]) -> Kept:
    found = entries or []
    sizes = [(max(0, one.get(size) or 0), is_active(one)) for one in found]
    return Kept(
        kind=kind,
        count=len(found),
        active=sum(active for _, active in sizes),
        size=sum(one for one, _ in sizes),
        reclaimable=sum(one for one, active in sizes if not active),
    )
