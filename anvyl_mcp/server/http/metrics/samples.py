"""This machine and its containers in numbers, gathered for a monitor that asks every few seconds."""

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
from anvyl_mcp.server.policy.guardrails import hidden
from anvyl_mcp.server.tools.host import Resources, get_host_resources

AT_ONCE = 16
STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
"""Each is told also when no container is in it: an alert on a series that comes and goes is no alert."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One container: its health (empty without a check), and how often the engine restarted it."""

    name: str
    health: str
    restarts: int


@dataclass(frozen=True, slots=True)
class ContainerFigures:
    """All containers that may be read."""

    states: Mapping[str, int]
    details: Sequence[Detail]
    usage: Sequence[ContainerStats]


class Figures:
    """Asks the machine and its engine; the engine's samples are kept from one time to the next."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._samples = SampleCache()

    def machine(self) -> Resources:
        """How busy and how full it is."""
        found = get_host_resources.function()
        assert isinstance(found, Resources)
        return found

    def containers(self) -> ContainerFigures | None:
        """The containers; None when the engine does not answer."""
        try:
            listed = [one for one in self._engine.containers(all=True) if not hidden(one)]
            with ThreadPoolExecutor(AT_ONCE, "inspect") as pool:
                details = [one for one in pool.map(self._detail, listed) if one]
            return ContainerFigures(self._states(listed), details, measure_usage(self._engine, self._samples))
        except (EngineError, Timeout, Denied):
            return None

    def _states(self, listed: Sequence[Mapping[str, Any]]) -> Mapping[str, int]:
        counted = Counter(str(one.get("State") or "") for one in listed)
        return {state: counted.get(state, 0) for state in dict.fromkeys([*STATES, *counted])}

    def _detail(self, listed: Mapping[str, Any]) -> Detail | None:
        """None when it is gone since it was listed."""

        def gone() -> AnvylError:
            return NotFound("it is gone")

        try:
            with engine_errors(missing=gone):
                found = compat.container_details(self._engine.client().inspect_container(listed["Id"]))
        except NotFound:
            return None
        health = found["State"]["Health"]["Status"]
        return Detail(own_name(listed), "" if health == "none" else health, found["RestartCount"])
