"""Commands that need no model: one tool on the hosts that are meant, its answers printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import anyio

from anvyl_mcp.cli import output
from anvyl_mcp.cli.run import ask_yes_no, command, exit_code
from anvyl_mcp.errors import ApprovalNeeded
from anvyl_mcp.peers.arguments import check, from_words
from anvyl_mcp.peers.fleet import Fleet
from anvyl_mcp.peers.listing import ToolListing
from anvyl_mcp.settings import Settings
from anvyl_mcp.text import joined, shown


def call(
    name: str,
    arguments: Mapping[str, Any] | list[str],
    *,
    host: str = "",
    as_json: bool = False,
    yes: bool = False,
) -> NoReturn:
    """Call one tool and print what each host answered. `arguments` may be words as typed."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp import app
        from anvyl_mcp.peers.targets import targets

        async with app.opened(settings, lean=True) as node:
            tool = node.fleet.tool(name)
            given = from_words(tool, arguments) if isinstance(arguments, list) else dict(arguments)
            check(tool, given)
            hosts = await targets(node.fleet, tool, given, host)
            confirm(tool, given, hosts, node.fleet, yes=yes)
            with told_when_interrupted(tool, hosts):
                done = await node.fleet.call_many(hosts, name, given)
            if as_json:
                output.document(output.hosts_document(done))
                for one in done.values():
                    output.failure(one)
            else:
                output.outcomes(tool, done)
            return exit_code(done)

    command(work, failed=output.no_hosts if as_json else None)


@contextmanager
def told_when_interrupted(tool: ToolListing, hosts: list[str]) -> Iterator[None]:
    """Ctrl-C takes back a read, but not a change that was asked for: the person is told, since no host can any more."""
    try:
        yield
    except (anyio.get_cancelled_exc_class(), KeyboardInterrupt):
        if not tool.reads:
            output.talk(
                f"`{tool.name}` was under way on {joined(hosts)}: it may still happen, so look before you repeat it"
            )
        raise


def confirm(tool: ToolListing, arguments: Mapping[str, Any], hosts: list[str], fleet: Fleet, *, yes: bool) -> None:
    """A typed command is its own yes; what destroys, or changes several hosts, is asked for once more.

    Raises:
        ApprovalNeeded: there is nobody to ask, or the answer is no.
    """
    if yes or tool.reads or (tool.safety == "changes" and len(hosts) == 1):
        return
    words = [tool.name.replace("_", " "), *(f"{key}={shown(value)}" for key, value in arguments.items())]
    what = " ".join(words)
    where = ", ".join(hosts)
    answer = ask_yes_no(f"{what} on {where}?")
    if answer is None:
        raise ApprovalNeeded(f"this would {what} on {where}, and there is no terminal to ask at", hint="add --yes")
    if not answer:
        raise ApprovalNeeded("nothing was changed", hint="answer y to go on, or add --yes")


def list_catalogue(*, as_json: bool) -> NoReturn:
    """Print every tool this version knows."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.catalogue import catalogue

        tools = catalogue(settings.cache_dir).values()
        if as_json:
            output.document({"tools": [_as_dict(tool) for tool in tools], "error": None})
        else:
            output.table(["tool", "does", "arguments", "description"], [_row(tool) for tool in tools])
        return 0

    command(work, failed=(lambda error: {"tools": [], "error": error.as_dict()}) if as_json else None)


def _row(tool: ToolListing) -> list[str]:
    arguments = " ".join(name if name in tool.required else f"[{name}]" for name in tool.arguments)
    return [tool.name, tool.safety, arguments, tool.description.splitlines()[0]]


def _as_dict(tool: ToolListing) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "toolset": tool.toolset,
        "safety": tool.safety,
        "scope": tool.scope,
        "say": list(tool.say),
        "input_schema": tool.input_schema,
        "output_schema": tool.output_schema,
    }
