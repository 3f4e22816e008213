"""Simulated tools of a host: images, processes, disk."""

from __future__ import annotations

from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Conflict, NotFound, did_you_mean
from anvyl_mcp.evaluation.acts.shared import act, id_of, output, rows_of
from anvyl_mcp.evaluation.acts.world import CREATED, Host, time_ago

DAY = 86400


@act
def list_images(host: Host, name: str, limit: int) -> dict[str, Any]:
    """List images."""
    found = [(tag, size) for tag, size in host.images.items() if name.lower() in tag.lower()]
    rows = [{"id": id_of(tag), "tags": [tag], "size": size, "created": time_ago(CREATED)} for tag, size in found]
    return rows_of("images", rows, limit)


@act
def pull_image(host: Host, image: str) -> dict[str, Any]:
    """Add an image."""
    new = image not in host.images
    size = host.images.setdefault(image, 100 * 1024**2)
    return {"id": id_of(image), "tags": [image], "size": size, "new": new}


@act
def remove_image(host: Host, image: str, force: bool) -> dict[str, Any]:
    """Remove an image, unless it is in use."""
    if image not in host.images and f"{image}:latest" not in host.images:
        raise NotFound(f"there is no image `{image}`", hint=did_you_mean(image, host.images))
    users = [one.name for one in host.containers.values() if one.image == image]
    if users and not force:
        raise Conflict(f"the image `{image}` is used by {text.join_names(users)}", hint="remove what uses it first")
    host.images.pop(image, None)
    return {"image": image, "untagged": [image], "deleted": 1}


@act
def get_host_info(host: Host) -> dict[str, Any]:
    """Facts about the machine."""
    running = sum(one.state == "running" for one in host.containers.values())
    engine = {
        "name": "Docker Engine",
        "version": host.docker,
        "api_version": "1.51",
        "containers_running": running,
        "containers_total": len(host.containers),
        "images": len(host.images),
    }
    return {
        "name": host.name,
        "hostname": host.name,
        "os": host.os,
        "kernel": "6.12.57",
        "arch": "x86_64",
        "cpus": host.cpus,
        "memory_total": host.memory["total"],
        "uptime_seconds": host.uptime_days * DAY,
        "engine": engine,
    }


@act
def get_host_resources(host: Host) -> dict[str, Any]:
    """CPU, memory and disk usage."""
    return {
        "cpu_percent": host.cpu_percent,
        "load": [round(host.cpus * host.cpu_percent / 100, 2)] * 3,
        "memory": _usage(host.memory),
        "swap": {"used": 0, "total": 0, "free": 0, "percent": 0},
        "disks": [_usage(disk) for disk in host.disks],
        "cores": [host.cpu_percent] * host.cpus,
        "temperatures": [{"sensor": "package", "celsius": 40 + host.cpu_percent / 4}],
        "uptime_seconds": host.uptime_days * DAY,
    }


@act
def list_processes(host: Host, sort: str, limit: int) -> dict[str, Any]:
    """List processes, the largest first."""
    rows = [
        {"pid": 100 + number, "name": name, "user": "root", "cpu_percent": cpu, "memory": memory}
        for number, (name, (cpu, memory)) in enumerate(host.processes.items())
    ]
    rows.sort(key=lambda row: -float(str(row["cpu_percent" if sort == "cpu" else "memory"])))
    return rows_of("processes", rows, limit)


@act
def execute_command(host: Host, command: str, timeout: int) -> dict[str, Any]:
    """Record a command without running it."""
    host.commands.append(command)
    return output(command)


@act
def get_disk_usage(host: Host) -> dict[str, Any]:
    """Disk usage of the engine."""
    used = {one.image for one in host.containers.values()}
    unused = sum(size for tag, size in host.images.items() if tag not in used)
    rows = [
        _kept("images", len(host.images), len(used), sum(host.images.values()), unused),
        _kept("containers", len(host.containers), len(host.containers), 40 * 1024**2, 0),
        _kept("volumes", len(host.volumes), len([1 for users in host.volumes.values() if users]), 5 * 1024**3, 0),
        _kept("build cache", 12, 0, 700 * 1024**2, 700 * 1024**2),
    ]
    return {"usage": rows, "total": len(rows)}


@act
def get_last_change(host: Host) -> dict[str, Any]:
    """Last change: none, because the world is fresh."""
    return {}


@act
def list_unused(host: Host, what: str) -> dict[str, Any]:
    """List stopped containers and unused objects; some images, volumes and build cache always exist."""
    names = {
        "containers": [one.name for one in host.containers.values() if one.state == "exited"],
        "networks": [name for name, inside in host.networks.items() if not inside and name != "bridge"],
        **{kind: ["leftover"] for kind in ("images", "volumes", "build_cache")},
    }
    sizes = {"images": 300, "volumes": 40, "build_cache": 700}
    rows = [
        {"kind": kind, "id": f"{kind} {name}", "name": name, "size": sizes.get(kind, 0) * 1024**2}
        for kind, found in names.items()
        for name in (found if what in (kind, "all") or (what == "space" and kind in ("images", "build_cache")) else [])
    ]
    return {"unused": rows, "total": len(rows), "more": 0}


@act
def prune_unused(host: Host, what: str, only: list[str]) -> dict[str, Any]:
    """Remove stopped containers and unused objects."""
    gone = [row for row in list_unused(host, what)["unused"] if not only or row["id"] in only]
    removed = {row["name"] for row in gone}
    host.containers = {name: one for name, one in host.containers.items() if name not in removed}
    host.networks = {name: inside for name, inside in host.networks.items() if name not in removed}
    return {"removed": sorted(removed), "kept": [], "reclaimed": sum(row["size"] for row in gone)}


@act
def list_events(host: Host, since: str, limit: int) -> dict[str, Any]:
    """List events."""
    rows = [
        {"time": time_ago(), "type": kind, "action": action, "name": name, "id": id_of(name)}
        for kind, action, name in host.events or [("container", "health_status", one) for one in host.containers]
    ]
    return rows_of("events", rows, limit)


def _usage(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "free": entry["total"] - entry["used"], "percent": round(entry["used"] / entry["total"] * 100, 1)}


def _kept(kind: str, count: int, active: int, size: int, reclaimable: int) -> dict[str, Any]:
    return {"kind": kind, "count": count, "active": active, "size": size, "reclaimable": reclaimable}
