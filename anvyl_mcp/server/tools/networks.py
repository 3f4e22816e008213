"""Networks on this host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from anvyl_mcp.core import text
from anvyl_mcp.server.containers.attachment_rights import check_network
from anvyl_mcp.server.engine import lookup
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine, own_name
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.engine.lookup import NetworkName
from anvyl_mcp.server.swarm.membership import require_manager
from anvyl_mcp.server.tool import ContainerName, Result, Row, tool


class Network(Row):
    """One network, and the containers in it, running or not."""

    columns = ("name", "driver", "subnets", "containers")

    id: str
    name: str
    driver: str
    internal: bool
    subnets: list[str]
    containers: list[str]


class Networks(Result):
    """Networks by name."""

    networks: list[Network]
    total: int
    more: int = 0


class NetworkState(Result):
    """A network after a change."""

    id: str
    name: str
    containers: list[str]
    removed: bool = False
    created: bool = False

    def text(self) -> str:
        """One line."""
        if self.removed or self.created:
            return f"{'created' if self.created else 'removed'} network {self.name}"
        return f"network {self.name} has {', '.join(self.containers) or 'no running containers'}"


@tool(say=["list networks", "show networks", "network ls"], about="network, subnet, bridge", rare=True)
def list_networks(engine: Engine, limit: Annotated[int, Field(ge=1, le=1000)] = 100) -> Networks:
    """List networks with their subnets and containers."""
    inside = defaultdict[str, list[str]](list)
    for entry in engine.containers(all=True):
        for name in entry["NetworkSettings"]["Networks"]:
            inside[name].append(own_name(entry))
    found = sorted((_network(raw, inside) for raw in lookup.list_networks(engine)), key=lambda one: one.name)
    return Networks(networks=found[:limit], total=len(found), more=max(0, len(found) - limit))


@tool(say=["create network {name}"], changes=True, seconds=60, rare=True)
def create_network(
    name: Annotated[str, Field(min_length=1, json_schema_extra={"x-makes": "network"})],
    engine: Engine,
    internal: Annotated[bool, Field(description="without external access")] = False,
    driver: Annotated[Literal["bridge", "overlay"], Field(description="overlay: across a Swarm")] = "bridge",
) -> NetworkState:
    """Create a network, on this host or across the nodes of a Swarm."""
    if driver == "overlay":
        require_manager(engine)
    with engine_errors(doing=f"to create the network `{name}`"):
        made = engine.client(CHANGE_TIMEOUT).create_network(
            name, driver=driver, check_duplicate=True, internal=internal, attachable=driver == "overlay" or None
        )
    return NetworkState(id=made["Id"][:12], name=name, containers=[], created=True)


@tool(say=["remove network {name}"], destroys=True, seconds=60, rare=True)
def remove_network(name: NetworkName, engine: Engine) -> NetworkState:
    """Remove a network that no container uses."""
    found = lookup.find_network(engine, name)
    with engine_errors(doing=f"to remove the network `{name}`"):
        engine.client(CHANGE_TIMEOUT).remove_network(found["Id"])
    return NetworkState(id=found["Id"][:12], name=found["Name"], containers=[], removed=True)


@tool(
    say=[
        "connect {container} to network {network}",
        "connect {container} to {network} network",
        "connect network {network} to {container}",
        "add {container} to network {network}",
        "add {container} to {network} network",
    ],
    changes=True,
    rare=True,
)
def connect_network(network: NetworkName, container: ContainerName, engine: Engine) -> NetworkState:
    """Connect a container to a network."""
    joining, found = engine.container(container), lookup.find_network(engine, network)
    check_network(found, network)
    with engine_errors(doing=f"to connect `{container}` to `{network}`"):
        engine.client(CHANGE_TIMEOUT).connect_container_to_network(joining["Id"], found["Id"])
    return _state(engine, found)


@tool(
    say=[
        "disconnect {container} from network {network}",
        "disconnect {container} from {network} network",
        "disconnect network {network} from {container}",
        "remove {container} from network {network}",
        "remove {container} from {network} network",
    ],
    changes=True,
    rare=True,
)
def disconnect_network(network: NetworkName, container: ContainerName, engine: Engine) -> NetworkState:
    """Disconnect a container from a network."""
    leaving, found = engine.container(container), lookup.find_network(engine, network)
    with engine_errors(doing=f"to disconnect `{container}` from `{network}`"):
        engine.client(CHANGE_TIMEOUT).disconnect_container_from_network(leaving["Id"], found["Id"])
    return _state(engine, found)


def _network(raw: Mapping[str, Any], inside: Mapping[str, list[str]]) -> Network:
    return Network(
        id=str(raw.get("Id", ""))[:12],
        name=text.clean(raw["Name"]),
        driver=text.clean(raw["Driver"]),
        internal=bool(raw.get("Internal")),
        subnets=[str(one["Subnet"]) for one in raw["IPAM"]["Config"] if one.get("Subnet")],
        # Podman lists its default network by another name than containers do, but with its containers.
        containers=sorted({*inside.get(raw["Name"], ()), *_running_in(raw)}),
    )


def _state(engine: Engine, network: Mapping[str, Any]) -> NetworkState:
    now = lookup.find_network(engine, network["Id"])
    return NetworkState(id=now["Id"][:12], name=now["Name"], containers=sorted(_running_in(now)))


def _running_in(network: Mapping[str, Any]) -> Iterator[str]:
    return (text.clean(one["Name"]) for one in network["Containers"].values())
