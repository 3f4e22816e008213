"""Which of all tools a host offers: toolsets, single tools, and none that change anything when it is read-only."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache

from anvyl_mcp.core.errors import AnvylError, InvalidInput, did_you_mean
from anvyl_mcp.server.plugins import plugin_tools
from anvyl_mcp.server.tool import Tool, tools_in

ALL_WORDS = ("all", "default")
"""Words for every toolset; `default` stands in command lines and settings of homes made before it meant all."""
ALWAYS_OFFERED = "fleet"
"""A host tells which others it knows, whatever else it offers."""


_ORDER = ("containers", "images", "host", "networks", "volumes", "system")
"""Toolsets that are used most come first: a model reads the list from the top."""


def load_tools() -> list[Tool]:
    """Every tool declared in `anvyl_mcp.server.tools`, most used toolsets first, and then those of plugins."""
    package = importlib.import_module("anvyl_mcp.server.tools")
    found: list[Tool] = []
    for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        found += tools_in(importlib.import_module(info.name))
    found += plugin_tools({tool.name for tool in found} | {"list_hosts"})
    return sorted(found, key=lambda tool: _ORDER.index(tool.toolset) if tool.toolset in _ORDER else len(_ORDER))


def select_tools(
    tools: Iterable[Tool], *, toolsets: str = "all", extra: str = "", read_only: bool = False
) -> list[Tool]:
    """The tools of some toolsets (`all`, or names with commas) and some more by name, in their own order.

    Raises:
        InvalidInput: there is no such toolset, or no such tool.
    """
    offered = list(tools)
    wanted = {ALWAYS_OFFERED, *_toolsets(toolsets, {tool.toolset for tool in offered})}
    names = _known(extra, {tool.name for tool in offered}, "tool")
    return [
        tool
        for tool in offered
        if (tool.toolset in wanted or tool.name in names) and (tool.safety == "reads" or not read_only)
    ]


def unavailable_tool(name: str, offered: Mapping[str, Tool]) -> AnvylError:
    """Why there is no tool of this name on this host, and how to turn it on when there could be."""
    tool = next((tool for tool in _all_tools() if tool.name == name), None)
    if tool is None:
        return InvalidInput(f"there is no tool `{name}` on this host", hint=did_you_mean(name, offered))
    if tool.toolset in {other.toolset for other in offered.values() if other.safety == "reads"}:
        return InvalidInput(
            f"`{name}` is not offered on this host, which is read-only",
            hint="start its server without --read-only to allow changes",
        )
    return InvalidInput(
        f"`{name}` is turned off on this host",
        hint=f"add `{tool.toolset}` to the --toolsets that its server was started with, or leave that option out",
    )


@cache
def _all_tools() -> tuple[Tool, ...]:
    return tuple(load_tools())


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
