"""Tools about the fleet: every host serves them for the hosts in its registry."""

from __future__ import annotations

from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.watch.health import check_hosts
from anvyl_mcp.server.auth.callers import CURRENT_CALLER
from anvyl_mcp.server.tool import Result, Row, Tool, tool


class Host(Row):
    """One host."""

    columns = ("name", "status", "url", "tags", "version")

    name: str
    url: str
    status: str
    tags: list[str]
    version: str


class Hosts(Result):
    """Hosts, this one first."""

    hosts: list[Host]
    total: int
    more: int = 0


def fleet_tools(fleet: Fleet | None) -> list[Tool]:
    """Return the tools. Without a fleet they can be listed but not called."""

    @tool(
        say=["list hosts", "show hosts", "which hosts are there", "ping hosts"],
        about="host, reachable, reach, answer, respond, tag, ping, connected, reply, paired",
        toolset="fleet",
    )
    async def list_hosts() -> Hosts:
        """List the hosts of the fleet and whether they answer."""
        assert fleet is not None
        # A token without relay is only valid for this host, so its holder may not see other hosts.
        names = fleet.hosts if CURRENT_CALLER.get().relay else [fleet.local.name]
        found = await check_hosts(fleet, names)
        rows = [
            Host(name=one.name, url=one.url, status=one.status, tags=list(one.tags), version=one.version)
            for one in found
        ]
        return Hosts(hosts=rows, total=len(rows))

    return [list_hosts]
