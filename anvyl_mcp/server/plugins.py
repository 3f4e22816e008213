"""Tools from other packages: each entry point of the group `anvyl_mcp.tools` names a module that declares tools."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from anvyl_mcp.server.tool import Tool, tools_in

log = logging.getLogger(__name__)

GROUP = "anvyl_mcp.tools"


def plugin_tools(taken: Collection[str]) -> list[Tool]:
    """Load the tools of all plugins. Skips names in `taken` and plugins that fail to load, and logs them."""
    found: dict[str, Tool] = {}
    for plugin in sorted(entry_points(group=GROUP), key=lambda plugin: plugin.name):
        for tool in _tools_of(plugin):
            if tool.name in taken or tool.name in found:
                log.error("the plugin `%s` may not replace the tool `%s`, which exists already", plugin.name, tool.name)
            else:
                found[tool.name] = tool
    return list(found.values())


def _tools_of(plugin: EntryPoint) -> Iterator[Tool]:
    try:
        module = plugin.load()
    # A plugin that fails to import must not keep the server from starting, even if it calls sys.exit.
    except (Exception, SystemExit):
        log.exception("the plugin `%s` (%s) cannot be loaded and is skipped", plugin.name, plugin.value)
        return
    tools = tools_in(module) if isinstance(module, ModuleType) else []
    if not tools:
        log.error("the plugin `%s` (%s) is skipped: it is not a module that declares tools", plugin.name, plugin.value)
    for tool in tools:
        undeclared = tool.toolset == tool.function.__module__.rsplit(".", 1)[-1]
        yield replace(tool, toolset=plugin.name) if undeclared else tool
