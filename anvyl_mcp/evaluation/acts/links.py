"""Networks and volumes."""

from __future__ import annotations

from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Conflict
from anvyl_mcp.evaluation.acts.shared import act, free, id_of, known, rows_of
from anvyl_mcp.evaluation.acts.world import CREATED, Host, time_ago


@act
def list_networks(host: Host, limit: int) -> dict[str, Any]:
    """List networks."""
    rows = [
        {
            "id": id_of(name),
            "name": name,
            "driver": "bridge",
            "internal": False,
            "subnets": [f"172.{17 + number}.0.0/16"],
            "containers": inside,
        }
        for number, (name, inside) in enumerate(sorted(host.networks.items()))
    ]
    return rows_of("networks", rows, limit)


@act
def create_network(host: Host, name: str, internal: bool) -> dict[str, Any]:
    """Create an empty network."""
    if name in host.networks:
        raise Conflict(f"there is a network `{name}` already", hint="use it, or choose another name")
    host.networks[name] = []
    return {"id": id_of(name), "name": name, "containers": [], "created": True}


@act
def remove_network(host: Host, name: str) -> dict[str, Any]:
    """Remove a network, unless it is in use."""
    if inside := known(host.networks, name, "network"):
        raise Conflict(f"the network `{name}` is used by {text.join_names(inside)}", hint="disconnect them first")
    del host.networks[name]
    return {"id": id_of(name), "name": name, "containers": [], "removed": True}


@act
def connect_network(host: Host, network: str, container: str) -> dict[str, Any]:
    """Connect a container."""
    one, inside = free(host, container), known(host.networks, network, "network")
    if one.name not in inside:
        inside.append(one.name)
    return {"id": id_of(network), "name": network, "containers": list(inside)}


@act
def disconnect_network(host: Host, network: str, container: str) -> dict[str, Any]:
    """Disconnect a container."""
    one, inside = free(host, container), known(host.networks, network, "network")
    if one.name not in inside:
        raise Conflict(f"`{one.name}` is not in the network `{network}`")
    inside.remove(one.name)
    return {"id": id_of(network), "name": network, "containers": list(inside)}


@act
def list_volumes(host: Host, limit: int) -> dict[str, Any]:
    """List volumes."""
    rows = [
        {
            "name": name,
            "driver": "local",
            "mountpoint": _folder(name),
            "created": time_ago(CREATED),
            "containers": users,
        }
        for name, users in sorted(host.volumes.items())
    ]
    return rows_of("volumes", rows, limit)


@act
def create_volume(host: Host, name: str) -> dict[str, Any]:
    """Create a volume."""
    if name in host.volumes:
        raise Conflict(f"there is a volume `{name}` already", hint="use it, or choose another name")
    host.volumes[name] = []
    return {"name": name, "mountpoint": _folder(name)}


@act
def remove_volume(host: Host, name: str) -> dict[str, Any]:
    """Remove a volume, unless it is in use."""
    if users := known(host.volumes, name, "volume"):
        raise Conflict(f"the volume `{name}` is used by {text.join_names(users)}", hint="remove what uses it first")
    del host.volumes[name]
    return {"name": name, "mountpoint": _folder(name), "removed": True}


def _folder(volume: str) -> str:
    return f"/var/lib/docker/volumes/{volume}/_data"
