"""Selects the tools that a host offers: toolsets, single tools, and only reads if it is read-only."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache

from anvyl_mcp.core.errors import AnvylError, InvalidInput, did_you_mean
from anvyl_mcp.server.plugins import plugin_tools
from anvyl_mcp.server.tool import Tool, tools_in

ALL_WORDS = ("all", "default")
"""Values that select every toolset; `default` is accepted for settings of older versions."""
HIDDEN_TOOLS = "anvyl_mcp.server.swarm.setup_steps"
ALWAYS_OFFERED = "fleet"
"""The toolset that is always offered, so that every host can list the hosts it knows."""


_ORDER = ("containers", "images", "host", "networks", "volumes", "system", "stacks", "updates", "history", "swarm")
"""The most used toolsets come first, because models prefer tools at the top of the list."""


def load_tools() -> list[Tool]:
    """Load every tool in `anvyl_mcp.server.tools` and in plugins, the most used toolsets first."""
    package = importlib.import_module("anvyl_mcp.server.tools")
    found: list[Tool] = []
    for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        found += tools_in(importlib.import_module(info.name))
    found += plugin_tools({tool.name for tool in found} | {"list_hosts"})
    return sorted(found, key=lambda tool: _ORDER.index(tool.toolset) if tool.toolset in _ORDER else len(_ORDER))


def load_hidden_tools() -> list[Tool]:
    """Load the tools that are steps of our own commands: served, and in no listing."""
    return tools_in(importlib.import_module(HIDDEN_TOOLS))


def offered_tools(
    tools: Iterable[Tool], *, toolsets: str = "all", extra: str = "", read_only: bool = False
) -> list[Tool]:
    """Select the tools of some toolsets (`all`, or comma-separated names) plus `extra` tools, keeping their order.

    Raises:
        InvalidInput: unknown toolset or tool.
    """
    offered = list(tools)
    wanted = {ALWAYS_OFFERED, *_toolsets(toolsets, {tool.toolset for tool in offered})}
    names = _known(extra, {tool.name for tool in offered}, "tool")
    return [
        tool
        for tool in offered
        if (tool.toolset in wanted or tool.name in names) and (tool.safety == "reads" or not read_only)
    ]


def unavailable_tool(name: str, offered: Mapping[str, Tool], host: str) -> AnvylError:
    """The error for a tool that this host does not offer, with a hint on how to turn it on if it exists."""
    tool = next((tool for tool in _all_tools() if tool.name == name), None)
    if tool is None:
        return InvalidInput(f"there is no tool `{name}` on {host}", hint=did_you_mean(name, offered))
    if tool.toolset in {other.toolset for other in offered.values() if other.safety == "reads"}:
        return InvalidInput(
            f"`{name}` is turned off on {host}, which is read-only",
            hint="start its server without --read-only to allow changes",
        )
    return InvalidInput(
        f"`{name}` is turned off on {host}",
        hint=f"add `{tool.toolset}` to the --toolsets that its server was started with, or leave that option out",
    )


@cache
def _all_tools() -> tuple[Tool, ...]:
    return (*load_tools(), *load_hidden_tools())


def _toolsets(words: str, known: set[str]) -> set[str]:
    chosen: set[str] = set()
    for word in _split(words) or ALL_WORDS:
        chosen |= known if word in ALL_WORDS else _known(word, known, "toolset")
    return chosen


def _known(words: str, known: set[str], what: str) -> set[str]:
    for word in _split(words):
        if word not in known:
            raise InvalidInput(f"there is no {what} `{word}`", hint=did_you_mean(word, known))
    return set(_split(words))


def _split(words: str) -> list[str]:
    return [word for word in words.replace(",", " ").split() if word]
