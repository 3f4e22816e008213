"""Choose the host for a new container by free memory or load, and report the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import InvalidInput, Unreachable
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome


@dataclass(frozen=True)
class HostCapacity:
    """Free memory and load of one host."""

    memory_free: int
    memory_total: int
    load: float
    cores: int

    @property
    def load_per_core(self) -> float:
        """Load divided by cores; 1 is a fully used machine."""
        return self.load / max(self.cores, 1)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "memory_free": self.memory_free,
            "memory_total": self.memory_total,
            "load": self.load,
            "cores": self.cores,
        }


@dataclass(frozen=True)
class PlacementRule:
    """`best` is the sort key, lowest first; `why` describes the host that was chosen."""

    best: Callable[[HostCapacity], float]
    why: Callable[[HostCapacity], str]


def _memory(figures: HostCapacity) -> str:
    return f"the most free memory: {text.format_size(figures.memory_free)} of {text.format_size(figures.memory_total)}"


def _load(figures: HostCapacity) -> str:
    return f"the least load: {figures.load:g} on {text.plural(figures.cores, 'core')}"


RULES = {
    "most-memory": PlacementRule(lambda figures: -figures.memory_free, _memory),
    "least-loaded": PlacementRule(lambda figures: figures.load_per_core, _load),
}
DEFAULT_RULE = "most-memory"


@dataclass(frozen=True)
class Placement:
    """The chosen host and the reason, the numbers of all candidates, and why others were left out."""

    host: str
    rule: str
    why: str
    figures: Mapping[str, HostCapacity]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "host": self.host,
            "rule": self.rule,
            "why": self.why,
            "figures": {host: figures.as_dict() for host, figures in self.figures.items()},
            "left_out": dict(self.left_out),
        }


async def place(fleet: Fleet, words: str, selector: str = "") -> Placement:
    """Choose among the hosts of a selector by `most-memory`, `least-loaded`, `@tag`, or a tag and a rule.

    Raises:
        InvalidInput: unknown placement rule.
        UnknownHost: no host has the tag.
        Unreachable: no host reported its resources.
    """
    rule, tags = _parse(words)
    hosts = fleet.select(selector) if selector else fleet.hosts
    if tags:
        tagged = fleet.select(",".join(tags))
        hosts = [host for host in hosts if host in tagged]
    if not hosts:
        raise InvalidInput(f"no host of {selector} has the tag {text.join_names(tags)}", hint="see anvyl hosts list")
    resources: dict[str, Outcome] = {}
    machines: dict[str, Outcome] = {}

    async def ask(into: dict[str, Outcome], tool: str) -> None:
        into.update(await fleet.call_many(hosts, tool, {}))

    async with anyio.create_task_group() as group:
        group.start_soon(ask, resources, "get_host_resources")
        group.start_soon(ask, machines, "get_host_info")
    left_out = {host: reason for host in hosts if (reason := _exclusion_reason(resources[host], machines[host]))}
    figures = {host: _capacity(resources[host].answer.result or {}) for host in hosts if host not in left_out}
    if not figures:
        reasons = "; ".join(f"{host}: {reason}" for host, reason in left_out.items())
        raise Unreachable(f"no host can take the container ({reasons})", hint="run anvyl hosts check")
    host = min(figures, key=lambda name: (RULES[rule].best(figures[name]), hosts.index(name)))
    return Placement(host, rule, RULES[rule].why(figures[host]), figures, left_out)


def _parse(words: str) -> tuple[str, list[str]]:
    parts = [part.strip().lower() for part in words.split(",") if part.strip()]
    tags = [part for part in parts if part.startswith("@")]
    rules = [part for part in parts if not part.startswith("@")]
    for name in rules:
        if name not in RULES:
            hint = f"use @tag, {' or '.join(sorted(RULES))}"
            raise InvalidInput(f"unknown placement rule `{name}`", hint=hint)
    if len(rules) > 1 or not parts:
        hint = f"use {', '.join(RULES)}, @tag, or @tag,{DEFAULT_RULE}"
        raise InvalidInput("give exactly one placement rule", hint=hint)
    return (rules or [DEFAULT_RULE])[0], tags


def _exclusion_reason(resources: Outcome, machine: Outcome) -> str:
    """Return why a host cannot be chosen; empty if it can."""
    for one in (resources, machine):
        if one.error is not None:
            return one.error.message
    engine = (machine.answer.result or {}).get("engine", {})
    return str(engine.get("error", ""))


def _capacity(resources: Mapping[str, Any]) -> HostCapacity:
    memory, load = resources["memory"], resources["load"]
    return HostCapacity(
        memory_free=memory["total"] - memory["used"],
        memory_total=memory["total"],
        load=float(load[0]) if load else 0.0,
        cores=len(resources["cores"]),
    )
