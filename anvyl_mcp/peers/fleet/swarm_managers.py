"""Find the hosts that manage a Swarm: its services and nodes belong to the cluster, and any manager knows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Conflict
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome

TOOLSET = "swarm"
LOST = "without a Swarm nothing starts containers again on another host when one fails, and nothing keeps their number"


@dataclass(frozen=True)
class SwarmPart:
    """A host's part in a Swarm. `cluster`: its id, known to managers only."""

    host: str
    state: str
    role: str = ""
    cluster: str = ""
    node_id: str = ""
    address: str = ""
    nodes: int = 0
    managers: int = 0
    error: str = ""

    @property
    def manages(self) -> bool:
        """Whether it is an active manager."""
        return self.state == "active" and self.role == "manager"

    @classmethod
    def parse(cls, host: str, fields: Mapping[str, Any]) -> SwarmPart:
        """Parse what a host reports about itself."""
        return cls(
            host,
            str(fields.get("state") or "inactive"),
            role=str(fields.get("role") or ""),
            cluster=str(fields.get("cluster") or ""),
            node_id=str(fields.get("node_id") or ""),
            address=str(fields.get("address") or ""),
            nodes=int(fields.get("nodes") or 0),
            managers=int(fields.get("managers") or 0),
            error=str(fields.get("error") or ""),
        )

    @classmethod
    def from_outcome(cls, outcome: Outcome) -> SwarmPart:
        """Parse the answer of `get_host_info`; a host that did not answer has the state `unknown`."""
        engine = (outcome.answer.result or {}).get("engine") or {}
        problem = outcome.error.message if outcome.error is not None else str(engine.get("error") or "")
        if problem:
            return cls(outcome.host, "unknown", error=problem)
        return cls.parse(outcome.host, engine.get("swarm") or {})


async def read_parts(fleet: Fleet, hosts: list[str] | None = None) -> dict[str, SwarmPart]:
    """Ask hosts for their part in a Swarm; by default all."""
    outcomes = await fleet.call_many(fleet.hosts if hosts is None else hosts, "get_host_info", {})
    return {host: SwarmPart.from_outcome(outcome) for host, outcome in outcomes.items()}


async def manager_for(fleet: Fleet, tool: ToolListing) -> list[str]:
    """Return one manager of each Swarm, for a call without a host; a change needs the only one.

    Raises:
        Conflict: no host manages a Swarm, or a change could go to several.
    """
    parts = await read_parts(fleet)
    by_cluster: dict[str, str] = {}
    for host, part in parts.items():
        if part.manages:
            by_cluster.setdefault(part.cluster or host, host)
    managers = list(by_cluster.values())
    if not managers:
        raise no_swarm_error(parts)
    if len(managers) > 1 and not tool.reads:
        raise Conflict(
            f"there are {len(managers)} Swarms, managed by {text.join_names(managers)}",
            hint=f"name the one, like --host {managers[0]}",
            call_hint=f'give a manager as `host`, like "{managers[0]}"',
        ).with_choices(managers)
    return managers


def no_swarm_error(parts: Mapping[str, SwarmPart]) -> AnvylError:
    """The error for a call that only a manager of a Swarm can answer; names the two ways to go on."""
    silent = [part for part in parts.values() if part.state == "unknown"]
    but = "".join(f"; {part.host} could not be asked ({part.error})" for part in silent)
    workers = [part.host for part in parts.values() if part.state == "active"]
    if workers:
        are = "are workers" if len(workers) > 1 else "is a worker"
        return Conflict(
            f"no host here manages a Swarm; {text.join_names(workers)} {are} of one{but}",
            hint="add its manager: on that host run anvyl-mcp invite, then here anvyl hosts add",
        )
    hosts = [part.host for part in parts.values() if part.state != "unknown"] or list(parts)
    if len(hosts) == 1:
        return Conflict(f"{hosts[0]} is in no Swarm{but}: {LOST}", hint=_ways(hosts))
    return Conflict(f"no host is in a Swarm{but}: {LOST}", hint=_ways(hosts))


def not_offered_error(tool: str, host: str) -> AnvylError:
    """The error for a tool of a Swarm that a host does not offer."""
    return Conflict(
        f"{host} does not offer `{tool}`: it manages no Swarm, or its settings or policy turn the tool off",
        hint=f"see anvyl swarm status; {LOST}",
    )


def _ways(hosts: list[str]) -> str:
    names = ",".join(hosts[:5])
    return (
        f"either form one: anvyl swarm init --hosts {names}; or run one container on each host, which its engine "
        f"restarts there: anvyl run IMAGE --host {names} --restart unless-stopped"
    )
