"""`anvyl swarm`: forms a Docker Swarm of paired hosts, shows it, and takes hosts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anvyl_mcp.cli.parser.command_groups import Commands
from anvyl_mcp.cli.parser.options import HostOption, JsonOption, YesOption

if TYPE_CHECKING:
    from anvyl_mcp.core.errors import AnvylError
    from anvyl_mcp.core.settings import Settings
    from anvyl_mcp.peers.fleet.fleet import Fleet
    from anvyl_mcp.peers.fleet.swarm_managers import SwarmPart

EXAMPLES = """\
anvyl swarm init --hosts nas,gpu,pi
anvyl swarm status
anvyl swarm leave --host pi
"""

app = Commands("Let several hosts run services together, as a Docker Swarm.", EXAMPLES)


@app.command("init")
def init(
    hosts: Annotated[
        str,
        typer.Option("--hosts", "--host", "-H", help="Which hosts; the first one starts it.", metavar="HOSTS"),
    ],
    managers: Annotated[
        int, typer.Option(metavar="NUMBER", help="How many of them manage it; by default 3 of three or more, else 1.")
    ] = 0,
    address: Annotated[
        str, typer.Option(metavar="IP", help="Where the others reach the first host, if that is not known here.")
    ] = "",
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Form a Swarm of paired hosts, or add hosts to one, after asking.

    Needs the scope exec on each: who manages a Swarm may run anything on all its hosts.
    """
    from anvyl_mcp.cli.runtime import output
    from anvyl_mcp.cli.runtime.runner import run_command

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node
        from anvyl_mcp.core import text
        from anvyl_mcp.core.errors import Incomplete
        from anvyl_mcp.peers.swarm import formation

        async with open_node(settings, lean=True) as node:
            plan = await formation.plan_formation(node.fleet, hosts, managers=managers, address=address)
            if len(plan.managers) == 2 and plan.new:
                output.print_message("note: with two managers the Swarm stops deciding when either is down; use 1 or 3")
            _confirm(plan.describe(), yes=yes, would="form a Swarm" if plan.new else "add hosts to the Swarm")
            done = await formation.form(node.fleet, plan, partial(_say, as_json=as_json))
        failed = [one for one in done if one.error is not None]
        error = None
        if failed:
            names = text.join_names([one.host for one in failed])
            reason = str(failed[0].error)
            error = Incomplete(f"{names} did not join: {reason}", hint="run it again; it goes on where it stopped")
        if as_json:
            output.print_json(_document({one.host: one.as_dict() for one in done}, error))
        if error is not None:
            output.print_error(error)
            return error.exit_code
        if not as_json:
            output.print_message('next:  anvyl call create_service image=IMAGE name=NAME replicas=5, or anvyl ask "…"')
        return 0

    run_command(work, failed=(lambda error: _document({}, error)) if as_json else None)


@app.command("status")
def status(as_json: JsonOption = False) -> None:
    """Show which hosts are in a Swarm, its nodes, and its services."""
    from anvyl_mcp.cli.runtime import output
    from anvyl_mcp.cli.runtime.runner import run_command

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node
        from anvyl_mcp.peers.fleet.swarm_managers import read_parts

        async with open_node(settings, lean=True) as node:
            parts = await read_parts(node.fleet)
            nodes, services = await _cluster(node.fleet, parts)
        if as_json:
            hosts = {host: _part_document(part) for host, part in parts.items()}
            output.print_json({**_document(hosts, None), "nodes": nodes, "services": services})
            return 0
        output.print_table(
            ["host", "swarm", "role", "address", "node"],
            [[one.host, one.state, one.role, one.address, _node_words(one, nodes)] for one in parts.values()],
        )
        for part in parts.values():
            if part.error:
                output.print_message(f"{part.host}: {part.error}")
        silent = any(part.state == "unknown" for part in parts.values())
        what = "no host here, or one that could not be asked" if silent else "not a host here"
        paired = {part.node_id[:12] for part in parts.values() if part.node_id}
        for row in nodes:
            if row["id"] not in paired:
                output.print_message(
                    f"node {row['name']} ({row['role']}, {row['status']}) is in the Swarm and is {what}"
                )
        for row in services:
            problem = f": {row['problem']}" if row.get("problem") else ""
            output.print_message(f"service {row['name']} runs {row['running']} of {row['replicas']}{problem}")
        if not any(part.state == "active" for part in parts.values()):
            output.print_message("no host is in a Swarm; to form one: anvyl swarm init --hosts HOSTS")
        return 0

    run_command(work, failed=(lambda error: _document({}, error)) if as_json else None)


@app.command("leave")
def leave(
    host: HostOption = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also if the rest of the Swarm is then without a manager.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take hosts out of their Swarm, after asking; all of them if no host is named.

    What services run on a host moves to other nodes first. With the last manager the Swarm ends.
    """
    from anvyl_mcp.cli.runtime import output
    from anvyl_mcp.cli.runtime.runner import run_command

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node
        from anvyl_mcp.core.errors import Incomplete
        from anvyl_mcp.peers.swarm import departure

        async with open_node(settings, lean=True) as node:
            plan = await departure.plan_departure(node.fleet, host, force=force)
            _confirm(plan.describe(), yes=yes, would="leave the Swarm")
            done = await departure.depart(node.fleet, plan, partial(_say, as_json=as_json))
        failed = [one for one in done if one.error is not None]
        error = None
        if failed:
            error = failed[0].error
            if len(failed) < len(done):
                error = Incomplete(str(error), hint="run it again for the rest")
        if as_json:
            output.print_json(_document({one.host: one.as_dict() for one in done}, error))
        for one in done:
            if one.note:
                output.print_message(f"note: {one.note}")
        if error is not None:
            output.print_error(error)
            return error.exit_code
        return 0

    run_command(work, failed=(lambda error: _document({}, error)) if as_json else None)


def _say(words: str, *, as_json: bool) -> None:
    from anvyl_mcp.cli.runtime import output

    (output.print_message if as_json else output.print_text)(words)


def _confirm(lines: Sequence[str], *, yes: bool, would: str) -> None:
    """Ask for approval.

    Raises:
        ApprovalNeeded: there is no terminal.
        Declined: the answer is no.
    """
    from anvyl_mcp.cli.runtime.runner import ask_yes_no
    from anvyl_mcp.core.errors import ApprovalNeeded, Declined

    if yes:
        return
    answer = ask_yes_no(*lines, "Go ahead?")
    if answer is None:
        raise ApprovalNeeded(f"this would {would}, and there is no terminal to ask at", hint="add --yes")
    if not answer:
        raise Declined()


async def _cluster(fleet: Fleet, parts: Mapping[str, SwarmPart]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The nodes and services of every Swarm, from one manager each."""
    nodes: list[dict[str, Any]] = []
    services: list[dict[str, Any]] = []
    managers = {part.cluster: host for host, part in reversed(list(parts.items())) if part.manages}
    for host in managers.values():
        for tool, rows, into in (("list_nodes", "nodes", nodes), ("list_services", "services", services)):
            into += ((await fleet.call(host, tool, {})).answer.result or {}).get(rows, ())
    return nodes, services


def _node_words(part: SwarmPart, nodes: Sequence[Mapping[str, Any]]) -> str:
    """What the Swarm says about a host's node."""
    row = next((row for row in nodes if part.node_id and row["id"] == part.node_id[:12]), None)
    if row is None:
        return ""
    return f"{row['name']}: {row['status']}, {row['availability']}, {row['tasks']} running"


def _part_document(part: SwarmPart) -> dict[str, Any]:
    fields = {name: getattr(part, name) for name in ("state", "role", "cluster", "node_id", "address", "error")}
    return {key: value for key, value in fields.items() if value}


def _document(hosts: Mapping[str, Any], error: AnvylError | None) -> dict[str, Any]:
    return {"hosts": dict(hosts), "error": error.as_dict() if error else None}
