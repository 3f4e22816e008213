"""Samples of this machine and its containers, for a monitor that polls every few seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core.errors import AnvylError, Denied, EngineError, NotFound, Timeout
from anvyl_mcp.server.engine import compat
from anvyl_mcp.server.engine.engine import Engine, own_name
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.engine.stats import ContainerStats, SampleCache, measure_usage
from anvyl_mcp.server.policy.guardrails import is_hidden
from anvyl_mcp.server.tools.host import Resources, get_host_resources

AT_ONCE = 16
STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
"""Reported even with no container in them: an alert on a series that comes and goes would not fire."""


@dataclass(frozen=True, slots=True)
class ContainerHealth:
    """A container's health (empty without a health check) and restart count."""

    name: str
    health: str
    restarts: int


@dataclass(frozen=True, slots=True)
class ContainerSamples:
    """Samples of all containers that may be read."""

    states: Mapping[str, int]
    details: Sequence[ContainerHealth]
    usage: Sequence[ContainerStats]


class HostSampler:
    """Samples the machine and its engine; keeps the engine's last samples to compute rates."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._samples = SampleCache()

    def machine(self) -> Resources:
        """Return cpu, memory and disk usage."""
        found = get_host_resources.function()
        assert isinstance(found, Resources)
        return found

    def containers(self) -> ContainerSamples | None:
        """Return samples of the containers, or None if the engine does not answer."""
        try:
            listed = [one for one in self._engine.containers(all=True) if not is_hidden(one)]
            with ThreadPoolExecutor(AT_ONCE, "inspect") as pool:
                details = [one for one in pool.map(self._detail, listed) if one]
            return ContainerSamples(self._states(listed), details, measure_usage(self._engine, self._samples))
        except (EngineError, Timeout, Denied):
            return None

    def _states(self, listed: Sequence[Mapping[str, Any]]) -> Mapping[str, int]:
        counted = Counter(str(one.get("State") or "") for one in listed)
        return {state: counted.get(state, 0) for state in dict.fromkeys([*STATES, *counted])}

    def _detail(self, listed: Mapping[str, Any]) -> ContainerHealth | None:
        """Return a container's health, or None if it was removed since the listing."""

        def gone() -> AnvylError:
            return NotFound("it is gone")

        try:
            with engine_errors(missing=gone):
                found = compat.container_details(self._engine.client().inspect_container(listed["Id"]))
        except NotFound:
            return None
        health = found["State"]["Health"]["Status"]
        return ContainerHealth(own_name(listed), "" if health == "none" else health, found["RestartCount"])
