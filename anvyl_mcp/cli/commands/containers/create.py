"""Runs `anvyl run`: creates and starts a container."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from anvyl_mcp.cli.commands.containers import placement_prompt
from anvyl_mcp.cli.commands.containers.exec_session import command_words
from anvyl_mcp.cli.runtime import output, tool_command
from anvyl_mcp.cli.runtime.runner import run_command
from anvyl_mcp.cli.terminal import bars
from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.peers.changes import outcome
from anvyl_mcp.peers.fleet.targets import ListedObjects


def run(
    image: str, words: Sequence[str], options: Mapping[str, Any], *, place: str, host: str, yes: bool, as_json: bool
) -> NoReturn:
    """Create and start a container on the given host, or on the one that the placement rule picks."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        values = {
            "image": image,
            "command": shlex.join(command_words(words)),
            **options,
            "env": _environment(options["env"]),
        }
        arguments = {key: value for key, value in values.items() if value}
        async with open_node(settings, lean=True) as node:
            fleet, tool = node.fleet, node.fleet.tool("create_container")
            placement = await placement_prompt.choose(fleet, place, host, memory=values["memory"]) if place else None
            if placement is None and not host and len(fleet.hosts) > 1:
                raise InvalidInput(
                    f"a new container needs a host: choose one of {', '.join(fleet.hosts)}",
                    hint=f"name one, like --host {fleet.hosts[0]}, or let Anvyl choose: --place most-memory",
                )
            steps, _ = await tool_command.plan_calls(
                fleet, tool, [arguments], placement.host if placement else host, ListedObjects()
            )
            if placement is not None:
                placement_prompt.confirm(placement, steps[0].describe(tool), yes=yes)
            elif tool_command.needs_approval(tool, steps, yes=yes):
                tool_command.confirm(tool, steps)
            with bars.progress_bars(steps[0].hosts) as report:
                done = await tool_command.call_hosts(fleet, tool, steps, None, report)
        if as_json:
            more = {"placement": placement.as_dict()} if placement else {}
            output.print_json({**output.hosts_document({one.host: one for one in done}), **more})
        else:
            for one in (one for one in done if one.ok):
                output.print_result(one, alone=len(fleet.hosts) == 1)
        for one in done:
            output.print_failure(one)
        return outcome.exit_code(done)

    run_command(work, failed=output.no_hosts_document if as_json else None)


def _environment(entries: Sequence[str]) -> list[str]:
    """Fill in `KEY` without a value from the environment.

    Raises:
        InvalidInput: it is unset. Docker would drop it.
    """
    resolved = []
    for entry in entries:
        if "=" not in entry and entry not in os.environ:
            raise InvalidInput(f"`{entry}` has no value and is not set in this shell", hint=f"write -e {entry}=value")
        resolved.append(entry if "=" in entry else f"{entry}={os.environ[entry]}")
    return resolved
