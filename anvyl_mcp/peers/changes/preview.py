"""Preview a change with a dry run on each host, so that the person who approves it sees what it would do there.

A tool declares this with `x-preview` in the schema of a boolean argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet, OnBehalf

MARKER = "x-preview"
MOST_LINES = 40
"""Lines shown for each host."""


def preview_argument(tool: ToolListing) -> str:
    """The argument that makes a call a dry run; empty if the tool has none."""
    return next((name for name, schema in tool.arguments.items() if schema.get(MARKER)), "")


async def preview_change(
    fleet: Fleet,
    tool: ToolListing,
    arguments: Mapping[str, Any],
    hosts: Sequence[str],
    problems: dict[str, AnvylError],
    on_behalf: OnBehalf | None = None,
) -> list[str]:
    """Lines about what a change would do on each host. Adds the error of each host where it cannot succeed."""
    argument = preview_argument(tool)
    if not argument or arguments.get(argument):
        return []
    given = {**arguments, argument: True}
    outcomes = await fleet.call_many(hosts, tool.name, given, on_behalf=on_behalf)
    lines = []
    for host, outcome in outcomes.items():
        if outcome.error is not None:
            problems[host] = outcome.error
            continue
        said = text.clean(outcome.answer.text).splitlines()
        lines += [f"{host}: {said[0]}" if said else host, *(f"  {line}" for line in said[1:MOST_LINES])]
        if len(said) > MOST_LINES:
            lines.append(f"  and {len(said) - MOST_LINES} more lines")
    return lines
