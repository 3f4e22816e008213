"""Parse the engine's disk usage (`GET /system/df`) in its two formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anvyl_mcp.server.engine.compat import EngineObject, mapping, number, objects
from anvyl_mcp.server.tool import Bytes, Row


class DiskUsageRow(Row):
    """Disk usage of one kind of object."""

    columns = ("kind", "count", "active", "size", "reclaimable")

    kind: str
    count: int
    active: int
    size: Bytes
    reclaimable: Bytes


KEYS_SINCE_1_52 = {
    "images": ("ImageUsage", "ImagesUsage", "ImagesDiskUsage"),
    "containers": ("ContainerUsage", "ContainersUsage", "ContainersDiskUsage"),
    "volumes": ("VolumeUsage", "VolumesUsage", "VolumesDiskUsage"),
    "build cache": ("BuildCacheUsage", "BuildCacheDiskUsage"),
}
"""Keys of each kind since API 1.52; releases differ in the spelling."""


def parse_usage(answer: EngineObject) -> list[DiskUsageRow]:
    """One row each for images, containers, volumes and build cache, from either format."""
    if any(name in answer for names in KEYS_SINCE_1_52.values() for name in names):
        return [
            _from_totals(kind, mapping(next((answer[name] for name in names if name in answer), {})))
            for kind, names in KEYS_SINCE_1_52.items()
        ]
    return [
        _from_images(answer),
        _from_items(
            "containers", objects(answer.get("Containers")), "SizeRw", lambda one: one.get("State") == "running"
        ),
        _from_items(
            "volumes",
            [mapping(one.get("UsageData")) for one in objects(answer.get("Volumes"))],
            "Size",
            lambda one: bool(number(one.get("RefCount"))),
        ),
        _from_items(
            "build cache",
            [one for one in objects(answer.get("BuildCache")) if not one.get("Shared")],
            "Size",
            lambda one: bool(one.get("InUse")),
        ),
    ]


def volume_sizes(answer: EngineObject) -> dict[str, float]:
    """Sizes of volumes by name, as far as the engine knows them."""
    known = objects(answer.get("Volumes")) or objects(mapping(answer.get("VolumeUsage")).get("Items"))
    sizes = {str(one.get("Name")): number(mapping(one.get("UsageData")).get("Size")) for one in known}
    return {name: size for name, size in sizes.items() if size is not None}


def _from_totals(kind: str, usage: EngineObject) -> DiskUsageRow:
    return DiskUsageRow(
        kind=kind,
        count=number(usage.get("TotalCount")) or 0,
        active=number(usage.get("ActiveCount")) or 0,
        size=number(usage.get("TotalSize")) or 0,
        reclaimable=number(usage.get("Reclaimable")) or 0,
    )


def _from_images(answer: EngineObject) -> DiskUsageRow:
    """Reclaimable is the total of all layers minus the layers of images in use, as images share layers.

    Podman lists an image once per name, and no total.
    """
    images = list({str(one.get("Id")): one for one in objects(answer.get("Images"))}.values())
    size = number(answer.get("LayersSize")) or sum(number(one.get("Size")) or 0 for one in images)
    active = [one for one in images if number(one.get("Containers"))]
    used = sum((number(one.get("Size")) or 0) - (number(one.get("SharedSize")) or 0) for one in active)
    return DiskUsageRow(
        kind="images", count=len(images), active=len(active), size=size, reclaimable=max(0, size - used) if size else 0
    )


def _from_items(
    kind: str, found: Sequence[EngineObject], size: str, is_active: Callable[[EngineObject], bool]
) -> DiskUsageRow:
    sizes = [(number(one.get(size)) or 0, is_active(one)) for one in found]
    return DiskUsageRow(
        kind=kind,
        count=len(found),
        active=sum(active for _, active in sizes),
        size=sum(one for one, _ in sizes),
        reclaimable=sum(one for one, active in sizes if not active),
    )
