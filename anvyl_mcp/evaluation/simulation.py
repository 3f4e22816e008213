"""Simulated fleet: one `Connection` per host, with the phrases and schemas of the real tools."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from anvyl_mcp import __version__
from anvyl_mcp.app.fleet_tools import fleet_tools
from anvyl_mcp.core.errors import AnvylError, Denied, Refused
from anvyl_mcp.evaluation.acts import ACTS, perform
from anvyl_mcp.evaluation.acts.world import Host, World
from anvyl_mcp.evaluation.forms import filled
from anvyl_mcp.peers.connection.listing import Connection, ProgressCallback, ToolAnswer, ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.hosts.registry import Peer, Registry
from anvyl_mcp.server.tool import Tool
from anvyl_mcp.server.toolsets import load_tools


@dataclass(frozen=True)
class Done:
    """One change made by a host."""

    host: str
    tool: str
    arguments: Mapping[str, Any]


@dataclass
class Simulation:
    """A fleet of simulated hosts, and the changes made on them, in order."""

    world: World
    catalogue: Mapping[str, ToolListing]
    done: list[Done] = field(default_factory=list)

    def __post_init__(self) -> None:
        peers = [Peer(host.name, f"http://127.0.0.1:{4300 + at}", host.tags) for at, host in enumerate(self.hosts)]
        self.fleet = Fleet(peers[0], _Known(peers), self.catalogue, self._connect)

    @property
    def hosts(self) -> list[Host]:
        """Names of all hosts; the first is the local one."""
        return list(self.world.hosts.values())

    def _connect(self, peer: Peer) -> Connection:
        return SimulatedHost(self, self.world.hosts[peer.name])


class _Known(Registry):
    """Registry with the hosts of the simulation, instead of the hosts file."""

    def __init__(self, peers: list[Peer]) -> None:
        super().__init__(Path(os.devnull))
        self._peers = {peer.name: peer for peer in peers}

    def peers(self) -> dict[str, Peer]:
        """All hosts."""
        return dict(self._peers)


@cache
def _tools() -> Mapping[str, Tool]:
    return {tool.name: tool for tool in load_tools() if tool.name in ACTS}


class SimulatedHost:
    """One host that runs tools on its simulated state, with real arguments and result models."""

    def __init__(self, simulation: Simulation, host: Host) -> None:
        self._simulation = simulation
        self._host = host

    async def list_tools(self) -> list[ToolListing]:
        """Tools with an act."""
        self._answering()
        return [listing for name, listing in self._simulation.catalogue.items() if name in ACTS or _of_fleet(listing)]

    async def version(self) -> str:
        """Version of this installation."""
        self._answering()
        return __version__

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        seconds: float,
        meta: Mapping[str, Any] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> ToolAnswer:
        """Run the tool on the state of this host."""
        self._answering()
        try:
            return await self._acted(tool, arguments)
        except AnvylError as error:
            return ToolAnswer(text=str(error), error=error)

    async def close(self) -> None:
        """Do nothing."""

    async def _acted(self, name: str, arguments: Mapping[str, Any]) -> ToolAnswer:
        if name not in _tools():
            for tool in fleet_tools(self._simulation.fleet):
                if tool.name == name:
                    result = await tool.function(**tool.parse(arguments))
                    return ToolAnswer(result=result.model_dump(mode="json"), text=result.text())
            raise Denied(f"`{self._host.name}` does not offer `{name}`")
        tool = _tools()[name]
        done = perform(self._host, name, tool.parse(arguments))
        result = tool.result.model_validate(filled(done, tool.output_schema))
        if tool.safety != "reads":
            self._simulation.done.append(Done(self._host.name, name, dict(arguments)))
        return ToolAnswer(result=result.model_dump(mode="json"), text=result.text())

    def _answering(self) -> None:
        if self._host.down:
            raise Refused("connection refused", hint="check that anvyl-mcp serve runs there")


def _of_fleet(listing: ToolListing) -> bool:
    return listing.toolset == "fleet"
