"""Remove unused objects one by one, so that protected ones are kept however their label is spelled."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Conflict, EngineError, EngineMissing, NotFound
from anvyl_mcp.server.engine import compat, disk_usage, lookup
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine, own_name
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.policy.guardrails import is_protected
from anvyl_mcp.server.tool import Bytes, Result, Row

ENDED_STATES = ("created", "exited", "dead")
BUILT_IN_NETWORKS = ("bridge", "host", "none", "ingress", "docker_gwbridge")
ANONYMOUS_VOLUME = re.compile(r"[0-9a-f]{64}")
"""Generated name of an anonymous volume; named volumes hold data that should be kept."""
SHOWN = 20
MOST_LISTED = 1000
BUILD_CACHE = "build_cache"
"""Stands in place of an object id for the whole build cache."""


class Pruned(Result):
    """What was removed, and what was kept."""

    removed: list[str]
    kept: list[str]
    reclaimed: Bytes

    def text(self) -> str:
        """One line for the removed objects, one for the kept ones."""
        freed = f"removed {text.plural(len(self.removed), 'object')}, {text.format_size(self.reclaimed)} freed"
        more = f" and {len(self.removed) - SHOWN} more" if len(self.removed) > SHOWN else ""
        what = f"{freed}: {', '.join(self.removed[:SHOWN])}{more}" if self.removed else "nothing to remove"
        return f"{what}\nkept: {', '.join(self.kept[:SHOWN])}" if self.kept else what


class UnusedObject(Row):
    """One object that a prune would remove."""

    columns = ("kind", "name", "size")

    kind: str
    id: str
    name: str
    size: Bytes


class Unused(Result):
    """What a prune would remove."""

    unused: list[UnusedObject]
    total: int
    more: int = 0


class _Sweep:
    """One prune, or a dry run of it.

    `only`: ids of the objects to remove; empty for all.
    """

    def __init__(self, engine: Engine, *, only: Collection[str] = (), dry_run: bool = False) -> None:
        self.engine = engine
        self.only = frozenset(only)
        self.dry_run = dry_run
        self.found: list[UnusedObject] = []
        self.removed: list[str] = []
        self.kept: list[str] = []
        self.reclaimed = 0

    def each(self, kind: str, entries: Iterable[tuple[str, Any]], remove: Callable[[Any], object], size: str) -> None:
        """Remove these, except protected objects and those that came into use in the meantime."""
        for name, entry in entries:
            identifier = str(entry.get("Id") or entry.get("Name") or "")
            if self.only and identifier not in self.only:
                continue
            if is_protected(entry):
                self.kept.append(f"{kind} {name}: protected")
                continue
            if self.dry_run:
                self.found.append(self.unused(kind, identifier, name, compat.number(entry.get(size))))
                continue
            try:
                with engine_errors(missing=lambda: NotFound("it is gone")):
                    remove(entry)
            except NotFound:
                continue
            except (Conflict, EngineError) as error:
                if isinstance(error, EngineMissing):
                    raise _interrupted(self.removed, error) from error
                self.kept.append(f"{kind} {name}: {text.clean(error.message)[:120]}")
                continue
            self.removed.append(f"{kind} {name}")
            self.reclaimed += compat.number(entry.get(size)) or 0

    def unused(self, kind: str, identifier: str, name: str, size: float | None) -> UnusedObject:
        """One object that would be removed."""
        return UnusedObject(kind=kind, id=identifier, name=name, size=max(0, int(size or 0)))

    def run(self, what: str) -> None:
        """Process the unused objects of one kind, of `space` or of `all`."""
        for kind, work in PRUNE_BY_KIND.items():
            if what in (kind, "all") or (what == "space" and kind in SPACE_KINDS):
                work(self)


def prune(engine: Engine, what: str, only: Collection[str] = ()) -> Pruned:
    """Remove the unused objects of one kind or of all; `only` restricts them to these ids unless it is empty."""
    sweep = _Sweep(engine, only=only)
    sweep.run(what)
    return Pruned(removed=sweep.removed, kept=sweep.kept, reclaimed=sweep.reclaimed)


def find_unused(engine: Engine, what: str) -> Unused:
    """Objects that `prune` would remove now, the largest first."""
    sweep = _Sweep(engine, dry_run=True)
    sweep.run(what)
    found = sorted(sweep.found, key=lambda one: -one.size)
    return Unused(unused=found[:MOST_LISTED], total=len(found), more=max(0, len(found) - MOST_LISTED))


def _prune_containers(sweep: _Sweep) -> None:
    client = sweep.engine.client(CHANGE_TIMEOUT)
    with engine_errors():
        # No filter by state: Podman rejects the request if it does not know one of Docker's states.
        listed = compat.parse_list(client.containers(all=True, size=True), compat.container_entry)
    named = [(own_name(one), one) for one in listed if one["State"] in ENDED_STATES]
    sweep.each("container", named, lambda one: client.remove_container(one["Id"]), "SizeRw")


def _prune_networks(sweep: _Sweep) -> None:
    """Skip built-in networks and those of running containers, which the engine would refuse to remove."""
    client = sweep.engine.client(CHANGE_TIMEOUT)
    busy = {name for entry in sweep.engine.containers(all=False) for name in entry["NetworkSettings"]["Networks"]}
    found = [
        (one["Name"], one)
        for one in lookup.list_networks(sweep.engine)
        if one["Name"] not in {*BUILT_IN_NETWORKS, *busy} and one.get("Scope") == "local" and not one.get("Ingress")
    ]
    sweep.each("network", found, lambda one: client.remove_network(one["Id"]), "")


def _prune_volumes(sweep: _Sweep) -> None:
    client = sweep.engine.client(CHANGE_TIMEOUT)
    sizes = disk_usage.volume_sizes(client.df()) if sweep.dry_run else {}
    found = [
        (one["Name"][:12], {**one, "Size": sizes.get(one["Name"])})
        for one in lookup.list_volumes(sweep.engine, dangling=True)
        if ANONYMOUS_VOLUME.fullmatch(one["Name"])
    ]
    sweep.each("volume", found, lambda one: client.remove_volume(one["Name"]), "Size")


def _prune_images(sweep: _Sweep) -> None:
    client = sweep.engine.client(CHANGE_TIMEOUT)
    found = [(one["Id"].removeprefix("sha256:")[:12], one) for one in lookup.list_images(sweep.engine, dangling=True)]
    sweep.each("image", found, lambda one: client.remove_image(one["Id"]), "Size")


def _prune_build_cache(sweep: _Sweep) -> None:
    if sweep.only and BUILD_CACHE not in sweep.only:
        return
    if sweep.dry_run:
        with engine_errors():
            kept = disk_usage.parse_usage(compat.require_object(sweep.engine.client(CHANGE_TIMEOUT).df()))
        size = sum(one.reclaimable for one in kept if one.kind == "build cache")
        sweep.found += [sweep.unused("build cache", BUILD_CACHE, "unused layers", size)] if size else []
        return
    try:
        with engine_errors(missing=lambda: NotFound("this engine keeps no build cache")):
            gone = sweep.engine.client(CHANGE_TIMEOUT).prune_builds()
    except NotFound:
        return
    sweep.removed += [f"build cache {one[:12]}" for one in gone.get("CachesDeleted") or ()]
    sweep.reclaimed += gone.get("SpaceReclaimed") or 0


def _interrupted(removed: list[str], error: AnvylError) -> AnvylError:
    return EngineError(
        f"the engine stopped answering after removing {text.plural(len(removed), 'object')}: {error.message}",
        hint=error.hint,
    )


PRUNE_BY_KIND: dict[str, Callable[[_Sweep], None]] = {
    "containers": _prune_containers,
    "networks": _prune_networks,
    "volumes": _prune_volumes,
    "images": _prune_images,
    "build_cache": _prune_build_cache,
}
"""In this order: removing a container frees what it used."""
SPACE_KINDS = ("images", "build_cache")
"""Kinds that can be pulled or built again, unlike data in containers and volumes."""
