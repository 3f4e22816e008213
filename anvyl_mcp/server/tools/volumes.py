"""Volumes on this host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Conflict
from anvyl_mcp.server.engine import lookup
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine, own_name
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.engine.lookup import VolumeName
from anvyl_mcp.server.tool import Result, Row, Time, tool


class Volume(Row):
    """One volume, and the containers that use it."""

    columns = ("name", "driver", "created", "containers")

    name: str
    driver: str
    mountpoint: str
    created: Time
    containers: list[str]


class Volumes(Result):
    """Volumes by name."""

    volumes: list[Volume]
    total: int
    more: int = 0


class VolumeState(Result):
    """A volume after a change."""

    name: str
    mountpoint: str
    removed: bool = False

    def text(self) -> str:
        """One line."""
        return f"{'removed' if self.removed else 'created'} volume {self.name}"


@tool(say=["list volumes", "show volumes", "volume ls"], about="volume, data volume", rare=True)
def list_volumes(engine: Engine, limit: Annotated[int, Field(ge=1, le=1000)] = 100) -> Volumes:
    """List volumes and the containers that use them."""
    using, found = _using(engine), lookup.list_volumes(engine)
    rows = [
        Volume(
            name=text.clean(one["Name"]),
            driver=text.clean(one["Driver"]),
            mountpoint=text.clean(one["Mountpoint"]),
            created=lookup.created_at(one),
            containers=sorted(using.get(one["Name"], ())),
        )
        for one in sorted(found, key=lambda one: str(one["Name"]))
    ]
    return Volumes(volumes=rows[:limit], total=len(rows), more=max(0, len(rows) - limit))


@tool(say=["create volume {name}"], changes=True, seconds=60, rare=True)
def create_volume(
    name: Annotated[str, Field(min_length=1, json_schema_extra={"x-makes": "volume"})], engine: Engine
) -> VolumeState:
    """Create a volume."""
    if any(one["Name"] == name for one in lookup.list_volumes(engine)):
        raise Conflict(f"a volume named `{name}` already exists", hint="use it, or choose another name")
    with engine_errors(doing=f"to create the volume `{name}`"):
        made = engine.client(CHANGE_TIMEOUT).create_volume(name)
    return VolumeState(name=made["Name"], mountpoint=made["Mountpoint"])


@tool(say=["remove volume {name}"], destroys=True, seconds=60, rare=True)
def remove_volume(name: VolumeName, engine: Engine) -> VolumeState:
    """Remove a volume and the data in it for good."""
    lookup.find_volume(engine, name)
    if users := _using(engine).get(name):
        raise Conflict(f"the volume `{name}` is used by {text.join_names(users)}", hint="remove those containers first")
    # A volume has no id, so check again right before removing it by name.
    found = lookup.find_volume(engine, name)
    with engine_errors(doing=f"to remove the volume `{name}`"):
        engine.client(CHANGE_TIMEOUT).remove_volume(name)
    return VolumeState(name=name, mountpoint=found["Mountpoint"], removed=True)


def _using(engine: Engine) -> Mapping[str, list[str]]:
    """Containers, running or not, by the volumes they mount."""
    using = defaultdict[str, list[str]](list)
    for entry in engine.containers(all=True):
        for mount in entry["Mounts"]:
            if mount.get("Type") == "volume" and mount.get("Name"):
                using[str(mount["Name"])].append(own_name(entry))
    return using
