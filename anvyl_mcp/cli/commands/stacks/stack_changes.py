"""Deploys a Compose file: reads it, shows on each host what would change, asks, and shows the progress."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from anvyl_mcp.cli.runtime import output, tool_command
from anvyl_mcp.cli.runtime.host_answers import AnswerDisplay
from anvyl_mcp.cli.runtime.runner import run_command
from anvyl_mcp.cli.terminal import bars
from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Conflict, InvalidInput
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.peers.changes import outcome
from anvyl_mcp.peers.changes.preview import preview_argument
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.fleet.targets import ListedObjects, hosts_by_name, resolve_targets

DEFAULT_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
REPLACE = "replace"
MAX_BYTES = 256 * 1024
NAME_IN_FILE = re.compile(r"""^name:\s*["']?([a-z0-9][a-z0-9_-]*)["']?\s*(?:#.*)?$""", re.MULTILINE)


@dataclass(frozen=True)
class StackFile:
    """A Compose file to send, and the lines of its `.env` file, which are never shown."""

    name: str
    compose: str
    variables: Sequence[str]

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `deploy_stack`."""
        return {"name": self.name, "compose": self.compose, "dotenv": list(self.variables)}


def read_stack_file(path: Path, name: str, env_file: Path | None) -> StackFile:
    """Read a Compose file, or the one in a folder, and the `.env` file next to it.

    Raises:
        InvalidInput: it cannot be read.
    """
    if path.is_dir():
        found = next((path / one for one in DEFAULT_FILES if (path / one).is_file()), None)
        if found is None:
            raise InvalidInput(f"{path} has no Compose file", hint=f"name it {DEFAULT_FILES[0]}")
        path = found
    compose = _read(path)
    default = path.parent / ".env"
    variables = _read(env_file or default) if env_file or default.is_file() else ""
    given = name or (match[1] if (match := NAME_IN_FILE.search(compose)) else _name_of(path.absolute().parent))
    if not given:
        raise InvalidInput(f"the folder of {path} cannot be the name of a stack", hint="give one with --name")
    return StackFile(given, compose, [line for line in variables.splitlines() if line.strip()])


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidInput(f"{path} is larger than {text.format_size(MAX_BYTES)}")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not a text file in UTF-8") from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", hint="check the path") from error


def _name_of(folder: Path) -> str:
    """The name that Compose gives a stack by its folder."""
    return re.sub(r"[^a-z0-9_-]", "", folder.name.lower()).lstrip("_-")


def deploy(
    name: str, arguments: Callable[[], Mapping[str, Any]], *, host: str, dry_run: bool, yes: bool, as_json: bool
) -> NoReturn:
    """Call `deploy_stack` or `revert_stack` on the hosts that have the stack, or on the given ones.

    `arguments` reads the file, and may raise `InvalidInput`.
    """

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        given = dict(arguments())
        async with open_node(settings, lean=True) as node:
            done = await _deploy(node.fleet, node.fleet.tool(name), given, host, dry_run, yes, as_json)
        if as_json:
            output.print_json(tool_command.calls_document(done, several=False))
        return outcome.exit_code(done)

    def failed(error: AnvylError) -> dict[str, Any]:
        return tool_command.calls_failed(error, several=False)

    run_command(work, failed=failed if as_json else None)


async def _deploy(
    fleet: Fleet, tool: ToolListing, arguments: dict[str, Any], host: str, dry_run: bool, yes: bool, as_json: bool
) -> list[Outcome]:
    step = tool_command.PlannedCall(arguments, await stack_hosts(fleet, tool, arguments, host))
    if dry_run:
        step = tool_command.PlannedCall({**arguments, preview_argument(tool): True}, step.hosts)
        display = None if as_json else AnswerDisplay(None, step.hosts)
        done = await tool_command.call_hosts(fleet, tool, [step], display)
        for one in done if as_json else ():
            output.print_failure(one, changing=True)
        return done
    missing: list[Outcome] = []
    if not yes:
        steps, missing = await tool_command.preflight(fleet, tool, [step], ListedObjects())
        step = steps[0]
        for one in missing:
            output.print_failure(one, changing=True)
        tool_command.confirm(tool, steps)
        if REPLACE in tool.arguments:
            # The question said so.
            step = replace(step, arguments={**step.arguments, REPLACE: True})
    with bars.progress_bars(step.hosts) if not as_json else nullcontext() as report:
        done = await tool_command.call_hosts(fleet, tool, [step], None, report)
    if not as_json:
        AnswerDisplay(None, step.hosts, changing=tool.name).show_all(done)
    for one in done if as_json else ():
        output.print_failure(one, changing=True)
    return [*missing, *done]


async def stack_hosts(fleet: Fleet, tool: ToolListing, arguments: Mapping[str, Any], selector: str) -> list[str]:
    """The hosts of a deployment: the selected ones, else the one that has the stack, else the only one.

    Raises:
        Conflict: several hosts have the stack.
        InvalidInput: none has it, and there are several hosts.
    """
    if selector or len(fleet.hosts) == 1 or "name" in tool.names:
        return await resolve_targets(fleet, tool, arguments, selector)
    name = str(arguments["name"])
    having = (await hosts_by_name(fleet, "stack")).get(name, [])
    if len(having) > 1:
        raise Conflict(
            f"{text.join_names(having)} all have a stack `{name}`",
            hint=f"name the host, like --host {having[0]}; or all",
        )
    return having or await resolve_targets(fleet, tool, arguments)
