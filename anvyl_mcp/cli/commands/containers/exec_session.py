"""Runs `anvyl exec`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NoReturn
from urllib.parse import urlsplit

from anvyl_mcp.cli.runtime import name_cache, output, tool_command
from anvyl_mcp.cli.runtime.runner import run_command
from anvyl_mcp.cli.terminal import screen
from anvyl_mcp.core import text
from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.peers.changes import outcome
from anvyl_mcp.peers.connection.transports import is_loopback
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.fleet.targets import ListedObjects

TIMED_OUT = 124
"""Exit code after the time limit, as of `timeout`."""
SHELLS = frozenset({
    "sh", "ash", "bash", "dash", "zsh", "fish", "python", "python3", "node", "irb", "psql", "mysql", "mariadb",
    "mongosh", "redis-cli", "sqlite3",
})  # fmt: skip
"""Programs that read from a terminal if they get no arguments."""


def execute(name: str, words: Sequence[str], *, host: str, timeout: int, yes: bool, as_json: bool) -> NoReturn:
    """Run a command in a container and exit with its code."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        arguments = {"name": name, "command": shlex.join(command_words(words)), "timeout": timeout}
        async with open_node(settings, lean=True) as node:
            tool, found = node.fleet.tool("exec_in_container"), ListedObjects()
            steps, _ = await tool_command.plan_calls(node.fleet, tool, [arguments], host, found)
            name_cache.update(settings, node.fleet, found)
            if tool_command.needs_approval(tool, steps, yes=yes, typed=True):
                tool_command.confirm(tool, steps)
            done = await tool_command.call_hosts(node.fleet, tool, steps, None)
            shell_host = next((one.host for one in done if one.ok and _was_a_shell(one, command_words(words))), "")
            show_hint = shell_host and not as_json
            line = await _docker_line(node.fleet, shell_host, name, command_words(words)) if show_hint else ""
        if as_json:
            output.print_json(output.hosts_document({one.host: one for one in done}))
        for one in done:
            if one.error is not None:
                output.print_failure(one)
            elif not as_json:
                _print(one, alone=len(done) == 1)
        if line:
            output.print_message(
                f"`{command_words(words)[0]}` exited without output, because anvyl exec does not pass it any input"
            )
            output.print_message(f"hint:  for a shell, type: {line}")
        return _exit_code(done)

    run_command(work, failed=output.no_hosts_document if as_json else None)


def refuse_interactive(name: str, words: Sequence[str], *, host: str, as_json: bool) -> NoReturn:
    """Fail with the docker command that opens a shell, since `anvyl exec` passes no input to a command."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        async with open_node(settings, lean=True) as node:
            tool = node.fleet.tool("exec_in_container")
            steps, _ = await tool_command.plan_calls(
                node.fleet, tool, [{"name": name, "command": "sh"}], host, ListedObjects()
            )
            [where, *_] = steps[0].hosts
            line = await _docker_line(node.fleet, where, name, command_words(words))
        raise InvalidInput(
            f"`anvyl exec` does not pass input to a command, so it cannot open a shell in `{name}` on {where}",
            hint=f"type: {line}",
        )

    run_command(work, failed=output.no_hosts_document if as_json else None)


async def _docker_line(fleet: Fleet, host: str, name: str, words: Sequence[str]) -> str:
    """Command line of `docker exec -it` or `podman exec -it`, over ssh for another host."""
    info = await fleet.call(host, "get_host_info", {})
    engine = (info.answer.result or {}).get("engine") or {}
    program = "podman" if "podman" in str(engine.get("name")).lower() else "docker"
    line = shlex.join([program, "exec", "-it", name, *words])
    if host == fleet.local.name:
        return line
    url = fleet.peers[host].url
    # With a tunnel, the address is loopback; use the host's name instead.
    return f"ssh -t {host if is_loopback(url) else urlsplit(url).hostname} {line}"


def _was_a_shell(one: Outcome, words: Sequence[str]) -> bool:
    """Whether a shell exited without output, because it got no input."""
    result = one.answer.result or {}
    silent = result.get("exit_code") == 0 and not (result.get("stdout") or result.get("stderr"))
    return silent and len(words) == 1 and PurePosixPath(words[0]).name in SHELLS


def command_words(words: Sequence[str]) -> list[str]:
    """The command's words without a leading `--`.

    Raises:
        InvalidInput: the first word is an option, probably one of anvyl.
    """
    found = list(words[1:] if words[:1] == ["--"] else words)
    if found[:1] and found[0].startswith("-") and "--" not in sys.argv:
        raise InvalidInput(
            f"`{found[0]}` would be taken for the command",
            hint="put options first, like anvyl exec --host nas web ls; or write -- before the command",
        )
    return found


def _print(one: Outcome, *, alone: bool) -> None:
    result = one.answer.result or {}
    for stream, words in ((sys.stdout, result["stdout"]), (sys.stderr, result["stderr"])):
        cleaned = text.clean(words)
        if not alone:
            front = screen.paint(f"{one.host}: ", screen.host_colour(one.host), stream)
            cleaned = "".join(f"{front}{line}\n" for line in cleaned.splitlines())
        stream.write(cleaned if cleaned.endswith("\n") or not stream.isatty() or not cleaned else f"{cleaned}\n")
        stream.flush()
    if result.get("truncated"):
        output.print_message(f"{one.host}: the output was truncated")
    if result.get("timed_out"):
        output.print_message(f"{one.host}: stopped by the time limit; raise it with --timeout")
    if result.get("note"):
        output.print_message(f"{one.host}: {result['note']}")


def _exit_code(done: Sequence[Outcome]) -> int:
    """Exit code of the command: 3 if it differs between hosts; if a call failed, that of the failure."""
    results = [one.answer.result or {} for one in done if one.ok]
    if len(results) < len(done):
        return outcome.exit_code(done)
    codes = {TIMED_OUT if result.get("timed_out") else int(result["exit_code"]) & 0xFF for result in results}
    return codes.pop() if len(codes) == 1 else 3
