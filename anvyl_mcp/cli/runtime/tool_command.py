"""Commands that need no model: one tool on the hosts that are meant, its answers printed as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import anyio

from anvyl_mcp.cli.runtime import name_cache, output
from anvyl_mcp.cli.runtime.approval_prompt import chosen_hosts
from anvyl_mcp.cli.runtime.host_answers import Answers, View, listed
from anvyl_mcp.cli.runtime.runner import ask_yes_no, command
from anvyl_mcp.cli.terminal import bars, screen
from anvyl_mcp.cli.terminal.bars import ReportOf
from anvyl_mcp.core.errors import AnvylError, ApprovalNeeded, Declined
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.core.text import joined
from anvyl_mcp.peers.changes import change_plan, outcome, wording
from anvyl_mcp.peers.changes.argument_check import check, from_words
from anvyl_mcp.peers.connection.listing import Answer, ToolListing
from anvyl_mcp.peers.fleet.fleet import AT_ONCE, Fleet, Outcome
from anvyl_mcp.peers.fleet.targets import Found, find, once, targets

ViewOf = Callable[[ToolListing], View | None]
"""A tool → how its answers become a table, if they do."""


@dataclass(frozen=True)
class Step:
    """One call that a command makes, and the hosts it makes it on."""

    arguments: Mapping[str, Any]
    hosts: list[str]
    details: tuple[str, ...] = ()

    def words(self, tool: ToolListing) -> str:
        """What it does, for people: `stop web on nas`."""
        return wording.order(tool.name, self.arguments, self.hosts)


def call(
    name: str,
    arguments: Mapping[str, Any] | list[str],
    *,
    host: str = "",
    as_json: bool = False,
    yes: bool = False,
    view: ViewOf = listed,
) -> NoReturn:
    """Call one tool and print what each host answered. `arguments` may be words as typed."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import opened

        async with opened(settings, lean=True) as node:
            await node.fleet.learn(name)
            tool = node.fleet.tool(name)
            given = from_words(tool, arguments) if isinstance(arguments, list) else dict(arguments)
            check(tool, given)
            done = await carried_out(node.fleet, settings, tool, [given], host, yes=yes, as_json=as_json, view=view)
            if as_json:
                output.document(output.hosts_document({one.host: one for one in done}))
            return outcome.exit_code(done)

    command(work, failed=output.no_hosts if as_json else None)


def each(
    name: str,
    names: Sequence[str],
    arguments: Mapping[str, Any],
    *,
    argument: str = "name",
    host: str = "",
    as_json: bool = False,
    yes: bool = False,
    view: ViewOf = listed,
    progress: bool = False,
) -> NoReturn:
    """Call one tool for each of several named objects, at once."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import opened

        async with opened(settings, lean=True) as node:
            tool = node.fleet.tool(name)
            every = [{argument: one, **arguments} for one in dict.fromkeys(names)]
            done = await carried_out(
                node.fleet, settings, tool, every, host, yes=yes, as_json=as_json, view=view, progress=progress
            )
            if as_json:
                output.document(named_document(done, several=len(every) > 1))
            return outcome.exit_code(done)

    command(work, failed=partial(named_failed, several=len(set(names)) > 1) if as_json else None)


def named_document(done: Sequence[Outcome], *, several: bool, error: AnvylError | None = None) -> dict[str, Any]:
    """`calls`, one entry per object and host; for a single object also `hosts`, as other commands have it."""
    hosts = {} if several else {"hosts": output.hosts_document({one.host: one for one in done})["hosts"]}
    error = error or outcome.failure(done)
    return {**hosts, "calls": outcome.documents(done), "error": error.as_dict() if error else None}


def named_failed(error: AnvylError, *, several: bool) -> dict[str, Any]:
    """The document when nothing was called."""
    return named_document([], several=several, error=error)


async def carried_out(
    fleet: Fleet,
    settings: Settings,
    tool: ToolListing,
    every: Sequence[Mapping[str, Any]],
    selector: str,
    *,
    yes: bool,
    as_json: bool,
    view: ViewOf = listed,
    progress: bool = False,
) -> list[Outcome]:
    """Find the hosts of every call, ask where a person must be asked, call, and print unless JSON is wanted."""
    found: Found = {}
    try:
        steps, missing = await planned(fleet, tool, every, selector, found)
    except AnvylError as error:
        chosen = "" if as_json else await chosen_hosts(fleet, error)
        if not chosen:
            raise
        steps, missing = await planned(fleet, tool, every, chosen, found)
    if asks(tool, steps, yes=yes):
        # Several hosts were asked for, also where only one of them turns out to be able.
        steps, impossible = await possible(fleet, tool, steps, found)
        missing += impossible
        confirm(tool, steps)
    hosts = [host for step in steps for host in step.hosts]
    answers = (
        None if as_json else Answers(view(tool), hosts, changing="" if tool.reads or tool.untrusted else tool.name)
    )
    with bars.showing(hosts) if progress else nullcontext() as report:
        # Bars are drawn over, so nothing else may be printed meanwhile.
        ended = await run(fleet, tool, steps, None if report else answers, report)
    if report and answers:
        answers.take(ended)
    done = [*missing, *ended]
    for one in missing if answers else done:
        output.failure(one, changing=not tool.reads)
    name_cache.note(settings, fleet, found, done)
    return done


async def planned(
    fleet: Fleet, tool: ToolListing, every: Sequence[Mapping[str, Any]], selector: str, found: Found
) -> tuple[list[Step], list[Outcome]]:
    """What to call where, and for reads which objects nobody has; a change is made for all that was named or for none.

    Raises:
        AnvylError: see `targets`.
    """
    for host in fleet.hosts:
        # In every command a host has the colour that its place in the fleet gives it.
        screen.host_colour(host)
    look = once(fleet, found)
    steps: list[Step] = []
    missing: list[Outcome] = []
    for arguments in every:
        try:
            steps.append(Step(arguments, await targets(fleet, tool, arguments, selector, look=look)))
        except AnvylError as error:
            if len(every) == 1:
                raise
            if not tool.reads:
                raise type(error)(f"{error.message}; nothing was changed", hint=error.hint) from error
            missing.append(Outcome("", tool.name, arguments, Answer(error=error), 0.0))
    return steps, missing


async def run(
    fleet: Fleet,
    tool: ToolListing,
    steps: Sequence[Step],
    answers: Answers | None,
    report: ReportOf | None = None,
) -> list[Outcome]:
    """Make every call of every step at once. When it is interrupted, say what may have happened all the same."""
    done: dict[tuple[int, str], Outcome] = {}
    # Changes are paced by the fleet, for each host: those on a slow one must not hold up the others.
    limiter = anyio.CapacityLimiter(AT_ONCE) if tool.reads else nullcontext()

    async def one(number: int, host: str) -> None:
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
    try:
        async with anyio.create_task_group() as showing:
            if answers:
                showing.start_soon(answers.follow)
            async with anyio.create_task_group() as calling:
                for number, host in pairs:
                    calling.start_soon(one, number, host)
            showing.cancel_scope.cancel()
    except BaseException:
        if answers:
            answers.end(failures=False)
        if not tool.reads:
            ended = {host for (_, host), one in done.items() if one.ok}
            _uncertain(tool, [host for step in steps for host in step.hosts if host not in ended])
        raise
    if answers:
        answers.end()
    return [done[pair] for pair in pairs]


def _uncertain(tool: ToolListing, hosts: Sequence[str]) -> None:
    """Ctrl-C takes back a read, but not a change that was asked for: the person is told, since no host can any more."""
    if hosts:
        where = joined(list(dict.fromkeys(hosts)))
        output.talk(f"`{tool.name}` was under way on {where}: it may still happen, so look before you repeat it")


async def possible(
    fleet: Fleet, tool: ToolListing, steps: Sequence[Step], found: Found
) -> tuple[list[Step], list[Outcome]]:
    """The steps as they can be made, before a person is asked; and what cannot be done where some of it can.

    Raises:
        AnvylError: one of them can be done nowhere.
    """
    able: list[Step] = []
    left: list[Outcome] = []

    async def look(kind: str, hosts: Sequence[str]) -> Mapping[str, Outcome]:
        seen = {**found.get(kind, {})}
        if unknown := [host for host in hosts if host not in seen]:
            found[kind] = seen = {**seen, **await find(fleet, kind, unknown)}
        return {host: seen[host] for host in hosts}

    for step in steps:
        plan = await change_plan.plan(fleet, tool, step.arguments, step.hosts, look=look)
        able.append(Step(plan.arguments, plan.hosts, plan.details))
        left += [
            Outcome(host, tool.name, step.arguments, Answer(error=why), 0.0) for host, why in plan.problems.items()
        ]
    return able, left


def asks(tool: ToolListing, steps: Sequence[Step], *, yes: bool, typed: bool = False) -> bool:
    """Whether a person is asked once more: a typed command is its own yes, unless it destroys or is for several hosts.

    `typed`: the command's very words say what it does, as `exec` does; only several hosts make it ask.
    """
    hosts = {host for step in steps for host in step.hosts}
    return not (yes or tool.reads or ((typed or tool.safety == "changes") and len(hosts) == 1))


def confirm(tool: ToolListing, steps: Sequence[Step]) -> None:
    """Ask whether it is to be done.

    Raises:
        ApprovalNeeded: there is nobody to ask, or the answer is no.
    """
    orders = wording.orders([(tool.name, step.arguments, step.hosts) for step in steps])
    several = [*(f"  {one}" for one in orders), "Do all of this?"]
    details = [line for step in steps for line in step.details]
    answer = ask_yes_no(*details, *(several if orders[1:] else [wording.question(orders[0])]))
    if answer is None:
        raise ApprovalNeeded(f"this would {joined(orders)}, and there is no terminal to ask at", hint="add --yes")
    if not answer:
        raise Declined()


def list_catalogue(*, as_json: bool) -> NoReturn:
    """Print every tool this version knows."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.catalogue import catalogue

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
