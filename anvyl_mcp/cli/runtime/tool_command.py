"""Commands that need no model: call one tool on the selected hosts and print results as they arrive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import anyio

from anvyl_mcp.cli.runtime import name_cache, output
from anvyl_mcp.cli.runtime.approval_prompt import prompt_for_hosts
from anvyl_mcp.cli.runtime.host_answers import AnswerDisplay, TableView, table_view
from anvyl_mcp.cli.runtime.runner import ask_yes_no, run_command
from anvyl_mcp.cli.terminal import bars, screen
from anvyl_mcp.cli.terminal.bars import ProgressFor
from anvyl_mcp.core.errors import AnvylError, ApprovalNeeded, Declined, OnFailure
from anvyl_mcp.core.protocol_keys import STACK_TOOLS
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.core.text import join_names
from anvyl_mcp.peers.changes import change_plan, outcome, wording
from anvyl_mcp.peers.changes.argument_check import check, parse_words
from anvyl_mcp.peers.changes.stack_names import list_into, stack_arguments, stacks_among
from anvyl_mcp.peers.connection.listing import ToolAnswer, ToolListing
from anvyl_mcp.peers.fleet.fleet import AT_ONCE, Fleet, Outcome
from anvyl_mcp.peers.fleet.targets import ListedObjects, list_objects_once, resolve_targets

TableViewOf = Callable[[ToolListing], TableView | None]
"""Maps a tool to the table view of its results, or None if they are text."""
UPDATE_TOOLS = ("update_container", "update_stack")
ViewFrom = Callable[[Fleet, str], Awaitable[TableViewOf]]
"""Makes a view that needs something from the hosts of a selector first."""


@dataclass(frozen=True)
class PlannedCall:
    """One set of arguments and the hosts to call the tool on."""

    arguments: Mapping[str, Any]
    hosts: list[str]
    details: tuple[str, ...] = ()

    def describe(self, tool: ToolListing) -> str:
        """The call in words: `stop web on nas`."""
        return wording.describe(tool.name, self.arguments, self.hosts)


def call(
    name: str,
    arguments: Mapping[str, Any] | list[str],
    *,
    host: str = "",
    as_json: bool = False,
    yes: bool = False,
    view: TableViewOf = table_view,
    view_from: ViewFrom | None = None,
) -> NoReturn:
    """Call one tool and print the result of each host. `arguments` may be unparsed `KEY=VALUE` words."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        async with open_node(settings, lean=True) as node:
            await node.fleet.learn_tool(name)
            tool = node.fleet.tool(name)
            parsed = parse_words(tool, arguments) if isinstance(arguments, list) else dict(arguments)
            check(tool, parsed)
            shown = view if view_from is None or as_json else await view_from(node.fleet, host)
            done = await run_calls(node.fleet, settings, tool, [parsed], host, yes=yes, as_json=as_json, view=shown)
            if as_json:
                output.print_json(output.hosts_document({one.host: one for one in done}))
            return outcome.exit_code(done)

    run_command(work, failed=output.no_hosts_document if as_json else None)


def call_for_each(
    name: str,
    names: Sequence[str],
    arguments: Mapping[str, Any],
    *,
    argument: str = "name",
    host: str = "",
    as_json: bool = False,
    yes: bool = False,
    view: TableViewOf = table_view,
    view_from: ViewFrom | None = None,
    progress: bool = False,
) -> NoReturn:
    """Call one tool once per name, concurrently. A name that no container has, but a stack, means the whole stack."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        async with open_node(settings, lean=True) as node:
            found = ListedObjects()
            every = [{argument: one, **arguments} for one in dict.fromkeys(names)]
            shown = view if view_from is None or as_json else await view_from(node.fleet, host)
            stacks = await stacks_among(node.fleet, names, host, found) if name in STACK_TOOLS else []
            done = []
            for tool, calls in by_tool(node.fleet, name, every, stacks):
                done += await run_calls(
                    node.fleet,
                    settings,
                    tool,
                    calls,
                    host,
                    yes=yes,
                    as_json=as_json,
                    view=shown,
                    progress=progress or (tool.name in STACK_TOOLS.values() and not tool.reads),
                    found=found,
                )
            if as_json:
                output.print_json(calls_document(done, several=len(every) > 1))
            return outcome.exit_code(done)

    run_command(work, failed=partial(calls_failed, several=len(set(names)) > 1) if as_json else None)


def by_tool(
    fleet: Fleet, name: str, every: Sequence[Mapping[str, Any]], stacks: Sequence[str]
) -> list[tuple[ToolListing, list[Mapping[str, Any]]]]:
    """The calls of the tool for containers, and of the one for stacks."""
    single = [one for one in every if one.get("name") not in stacks]
    pairs = [(fleet.tool(name), single)] if single else []
    if stacks:
        tool = fleet.tool(STACK_TOOLS[name])
        pairs.append((tool, [stack_arguments(tool, one) for one in every if one.get("name") in stacks]))
    return pairs


def calls_document(done: Sequence[Outcome], *, several: bool, error: AnvylError | None = None) -> dict[str, Any]:
    """JSON document with `calls`, one entry per object and host; for a single object also `hosts`."""
    hosts = {} if several else {"hosts": output.hosts_document({one.host: one for one in done})["hosts"]}
    error = error or outcome.failure(done)
    return {**hosts, "calls": outcome.documents(done), "error": error.as_dict() if error else None}


def calls_failed(error: AnvylError, *, several: bool) -> dict[str, Any]:
    """JSON document of a command that failed before any call."""
    return calls_document([], several=several, error=error)


async def run_calls(
    fleet: Fleet,
    settings: Settings,
    tool: ToolListing,
    every: Sequence[Mapping[str, Any]],
    selector: str,
    *,
    yes: bool,
    as_json: bool,
    view: TableViewOf = table_view,
    progress: bool = False,
    found: ListedObjects | None = None,
) -> list[Outcome]:
    """Resolve the hosts of every call, ask for approval if needed, call, and print unless `as_json`.

    `found`: listings that are known already.
    """
    found = {} if found is None else found
    try:
        steps, missing = await plan_calls(fleet, tool, every, selector, found)
    except AnvylError as error:
        chosen = "" if as_json else await prompt_for_hosts(fleet, error)
        if not chosen:
            raise
        steps, missing = await plan_calls(fleet, tool, every, chosen, found)
    if needs_approval(tool, steps, yes=yes):
        # Ask even if preflight leaves a single host: the command named several.
        steps, impossible = await preflight(fleet, tool, steps, found)
        missing += impossible
        confirm(tool, steps)
    hosts = [host for step in steps for host in step.hosts]
    answers = (
        None
        if as_json
        else AnswerDisplay(view(tool), hosts, changing="" if tool.reads or tool.untrusted else tool.name)
    )
    with bars.progress_bars(hosts) if progress else nullcontext() as report:
        # Progress bars redraw their lines, so results are printed after they end.
        finished = await call_hosts(fleet, tool, steps, None if report else answers, report)
    if report and answers:
        answers.show_all(finished)
    done = [*missing, *finished]
    for one in missing if answers else done:
        output.print_failure(one, changing=not tool.reads)
    name_cache.update(settings, fleet, found, done)
    return done


async def plan_calls(
    fleet: Fleet, tool: ToolListing, every: Sequence[Mapping[str, Any]], selector: str, found: ListedObjects
) -> tuple[list[PlannedCall], list[Outcome]]:
    """Resolve the hosts of each call; for reads also return an error per object that no host has.

    A change fails as a whole if one of its objects is missing.

    Raises:
        AnvylError: see `targets`.
    """
    for host in fleet.hosts:
        # Assign colours in fleet order, so that a host has the same colour in every command.
        screen.host_colour(host)
    lookup = list_objects_once(fleet, found)
    steps: list[PlannedCall] = []
    missing: list[Outcome] = []
    for arguments in every:
        try:
            steps.append(PlannedCall(arguments, await resolve_targets(fleet, tool, arguments, selector, lister=lookup)))
        except AnvylError as error:
            if len(every) == 1:
                raise
            if not tool.reads:
                raise type(error)(f"{error.message}; nothing was changed", hint=error.hint) from error
            missing.append(Outcome("", tool.name, arguments, ToolAnswer(error=error), 0.0))
    return steps, missing


async def call_hosts(
    fleet: Fleet,
    tool: ToolListing,
    steps: Sequence[PlannedCall],
    answers: AnswerDisplay | None,
    report: ProgressFor | None = None,
) -> list[Outcome]:
    """Make all calls concurrently; on interruption, report which changes may still happen."""
    done: dict[tuple[int, str], Outcome] = {}
    # The fleet paces changes per host; a shared limit would let a slow host delay the others.
    limiter = anyio.CapacityLimiter(AT_ONCE) if tool.reads else nullcontext()

    async def call_one(number: int, host: str) -> None:
        async with limiter:
            outcome = await fleet.call(
                host, tool.name, steps[number].arguments, on_progress=report(host) if report else None
            )
        done[number, host] = outcome
        if report:
            report(host)(1, 1, "done" if outcome.ok else "failed")
        if answers:
            answers.add(outcome)

    pairs = [(number, host) for number, step in enumerate(steps) for host in step.hosts]

    def broken_off(_: BaseException) -> None:
        if answers:
            answers.end(failures=False)
        if not tool.reads:
            succeeded = {host for (_, host), one in done.items() if one.ok}
            _warn_outcome_unknown(tool, [host for step in steps for host in step.hosts if host not in succeeded])

    with OnFailure(broken_off):
        async with anyio.create_task_group() as showing:
            if answers:
                showing.start_soon(answers.follow)
            async with anyio.create_task_group() as calling:
                for number, host in pairs:
                    calling.start_soon(call_one, number, host)
            showing.cancel_scope.cancel()
    if answers:
        answers.end()
    return [done[pair] for pair in pairs]


def _warn_outcome_unknown(tool: ToolListing, hosts: Sequence[str]) -> None:
    """Warn that an interrupted change may still happen: Ctrl-C does not cancel it on the host."""
    if hosts:
        where = join_names(list(dict.fromkeys(hosts)))
        if tool.name in UPDATE_TOOLS:
            output.print_message(
                f"an update on {where} was interrupted: what it has not replaced stays as it was; a new container that "
                "had started keeps running, but is not watched any more. anvyl undo goes back"
            )
            return
        output.print_message(f"`{tool.name}` was under way on {where} and may still happen; check before you repeat it")


async def preflight(
    fleet: Fleet, tool: ToolListing, steps: Sequence[PlannedCall], found: ListedObjects
) -> tuple[list[PlannedCall], list[Outcome]]:
    """Drop the hosts on which a call cannot succeed, before asking for approval; return those as failures.

    Raises:
        AnvylError: a call cannot succeed on any host.
    """
    feasible: list[PlannedCall] = []
    failures: list[Outcome] = []

    lookup = list_into(fleet, found)
    for step in steps:
        plan = await change_plan.plan_change(fleet, tool, step.arguments, step.hosts, lister=lookup)
        feasible.append(PlannedCall(plan.arguments, plan.hosts, plan.details))
        failures += [
            Outcome(host, tool.name, step.arguments, ToolAnswer(error=why), 0.0) for host, why in plan.problems.items()
        ]
    return feasible, failures


def needs_approval(tool: ToolListing, steps: Sequence[PlannedCall], *, yes: bool, typed: bool = False) -> bool:
    """Whether to ask for approval: only for destructive calls and for changes on several hosts.

    `typed`: the user typed out what runs, as with `exec`; then only several hosts need approval.
    """
    hosts = {host for step in steps for host in step.hosts}
    return not (yes or tool.reads or ((typed or tool.safety == "changes") and len(hosts) == 1))


def confirm(tool: ToolListing, steps: Sequence[PlannedCall]) -> None:
    """Ask for approval.

    Raises:
        ApprovalNeeded: there is no terminal.
        Declined: the answer is no.
    """
    orders = wording.describe_all([(tool.name, step.arguments, step.hosts) for step in steps])
    several = [*(f"  {one}" for one in orders), "Do all of this?"]
    details = [line for step in steps for line in step.details]
    answer = ask_yes_no(*details, *(several if orders[1:] else [wording.question(orders[0])]))
    if answer is None:
        for line in details:
            output.print_message(line)
        raise ApprovalNeeded(f"this would {join_names(orders)}, and there is no terminal to ask at", hint="add --yes")
    if not answer:
        raise Declined()


def list_catalogue(*, as_json: bool) -> NoReturn:
    """Print all tools of this version."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.catalogue import load_catalogue

        tools = load_catalogue(settings.cache_dir).values()
        if as_json:
            output.print_json({"tools": [_as_dict(tool) for tool in tools], "error": None})
        else:
            output.print_table(["tool", "does", "arguments", "description"], [_row(tool) for tool in tools])
        return 0

    run_command(work, failed=(lambda error: {"tools": [], "error": error.as_dict()}) if as_json else None)


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
