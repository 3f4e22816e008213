"""Shared helpers of the acts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from anvyl_mcp.core.errors import Denied, NotFound, did_you_mean
from anvyl_mcp.evaluation.acts.world import Container, Host

Act = Callable[..., dict[str, Any]]
ACTS: dict[str, Act] = {}


def act(function: Act) -> Act:
    """Register a function as the act of the tool with its name."""
    ACTS[function.__name__] = function
    return function


def perform(host: Host, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run the act of a tool with the arguments that it uses."""
    known = inspect.signature(ACTS[tool]).parameters
    return ACTS[tool](host, **{name: value for name, value in arguments.items() if name in known})


def is_protected(one: Container) -> bool:
    """Whether its label forbids changes."""
    return "anvyl.protect=true" in one.labels


def free(host: Host, name: str) -> Container:
    """Container by name; fails if it cannot be changed."""
    one = host.container(name)
    if is_protected(one):
        raise Denied(f"`{one.name}` must not be changed through Anvyl: it has the label `anvyl.protect=true`")
    return one


def known(found: dict[str, list[str]], name: str, kind: str) -> list[str]:
    """Users of a network or volume."""
    if name not in found:
        raise NotFound(f"there is no {kind} `{name}`", hint=did_you_mean(name, found))
    return found[name]


def rows_of(field: str, found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Build a list result."""
    return {field: found[:limit], "total": len(found), "more": max(0, len(found) - limit)}


def output(command: str) -> dict[str, Any]:
    """Simulated output of a command."""
    said = f"(simulated) {command}\n"
    return {"exit_code": 0, "stdout": said, "stderr": "", "truncated": False, "timed_out": False}


def id_of(name: str) -> str:
    """Stable id for a name."""
    return Container(name, "").id
