"""`anvyl update`: finds what to update, asks, and updates it with progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn

from anvyl_mcp.cli.runtime import name_cache, output, tool_command
from anvyl_mcp.cli.runtime.host_answers import AnswerDisplay
from anvyl_mcp.cli.runtime.runner import ask_yes_no, run_command
from anvyl_mcp.cli.runtime.tool_command import PlannedCall
from anvyl_mcp.cli.terminal import bars
from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, ApprovalNeeded, Declined, InvalidInput, NotFound, OnFailure
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.peers.changes import outcome, pending_update
from anvyl_mcp.peers.changes.argument_check import check
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.fleet.targets import ListedObjects, list_objects_once, names_in

CONTAINER, STACK, LIST = "update_container", "update_stack", "list_updates"
ANY_AGE = "0"


@dataclass(frozen=True)
class UpdateOptions:
    """What to update."""

    names: tuple[str, ...] = ()
    everything: bool = False
    without: tuple[str, ...] = ()
    now: bool = False
    image: str = ""
    watch: int | None = None

    def check(self) -> None:
        """Check the combination.

        Raises:
            InvalidInput: it makes no sense.
        """
        if bool(self.names) == self.everything:
            raise InvalidInput("name what to update, or use --all", hint="see what can be updated: anvyl updates")
        if self.without and not self.everything:
            raise InvalidInput("--except goes with --all")
        if self.image and len(self.names) != 1:
            raise InvalidInput("--image needs exactly one container")

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of every call."""
        watch = {} if self.watch is None else {"watch": self.watch}
        return {**watch, **({"min_age": ANY_AGE} if self.now else {})}


@dataclass
class Plan:
    """Calls by tool, lines that describe them, and what is left out and why. `last` are calls after all others."""

    calls: dict[str, list[PlannedCall]]
    lines: list[str]
    skipped: list[dict[str, str]]
    failed: list[Outcome]
    last: list[PlannedCall] = field(default_factory=list)
    answered: list[Outcome] = field(default_factory=list)
    """What the hosts answered that list their updates."""

    @property
    def batches(self) -> list[tuple[str, list[PlannedCall]]]:
        """Calls to make one after another; those of a batch are made at once."""
        return [*self.calls.items(), *([(CONTAINER, self.last)] if self.last else [])]


def run_updates(options: UpdateOptions, *, host: str, yes: bool, as_json: bool) -> NoReturn:
    """Update containers and stacks, and exit."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node

        options.check()
        async with open_node(settings, lean=True) as node:
            fleet, listed = node.fleet, ListedObjects()
            plan = await (
                _plan_all(fleet, options, host) if options.everything else _plan_named(fleet, options, host, listed)
            )
            if not as_json:
                for row in plan.skipped:
                    output.print_message(f"{row['host']}: {row['name']} is left out: {row['why']}")
            _confirm(plan, options, yes=yes)
            done = list(plan.failed)
            for name, calls in plan.batches:
                done += await _run(fleet, name, calls, as_json=as_json)
            name_cache.update(settings, fleet, listed, done)
            if as_json:
                output.print_json(_document(done, plan.skipped))
            elif not done:
                output.print_message("everything is up to date")
            else:
                if not plan.batches and plan.answered:
                    output.print_message("everything else is up to date")
                for one in plan.failed:
                    output.print_failure(one)
            return outcome.exit_code(done if plan.batches else [*plan.answered, *done])

    run_command(work, failed=(lambda error: _document([], [], error)) if as_json else None)


async def _plan_named(fleet: Fleet, options: UpdateOptions, host: str, listed: ListedObjects) -> Plan:
    """Find containers, or else stacks, of these names.

    Raises:
        NotFound: there is neither; nothing was changed.
    """
    plan = Plan({}, [], [], [])
    lister = list_objects_once(fleet, listed)
    for name in dict.fromkeys(options.names):
        known = {kind: await lister(kind) for kind in ("container", "stack")}
        has = {kind: any(name in names_in(kind, one) for one in hosts.values()) for kind, hosts in known.items()}
        tool = STACK if has["stack"] and not has["container"] else CONTAINER
        arguments = {"name": name, **options.arguments, **({"image": options.image} if options.image else {})}
        check(fleet.tool(tool), arguments)
        steps, _ = await tool_command.plan_calls(fleet, fleet.tool(tool), [arguments], host, listed)
        plan.calls.setdefault(tool, []).extend(steps)
        to = f" to {options.image}" if options.image else ""
        plan.lines += [f"{name}{to} on {text.join_names(step.hosts)}" for step in steps]
    return plan


async def _plan_all(fleet: Fleet, options: UpdateOptions, host: str) -> Plan:
    """Everything with a newer image, stacks as a whole; what failed before, is too young or is excluded stays."""
    hosts = fleet.select(host) if host else fleet.hosts
    plan = Plan({}, [], [], [])
    known: set[str] = set()
    for where, one in (await fleet.call_many(hosts, LIST, {"refresh": True})).items():
        (plan.answered if one.ok else plan.failed).append(one)
        result = one.answer.result or {}
        rows = [row for row in result.get("updates") or () if isinstance(row, Mapping)]
        known |= {str(row.get(key)) for row in rows for key in ("name", "stack")} | set(result.get("current") or ())
        chosen: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            name, stack = str(row["name"]), str(row.get("stack") or "")
            why = _why_skipped(row, options)
            if why:
                plan.skipped.append({"host": where, "name": name, "why": why})
                continue
            subject = (STACK, stack) if stack and not _is_partial(stack, rows, options) else (CONTAINER, name)
            chosen.setdefault(subject, []).append(
                f"{name}: {row['current']} → {row['available']} {row['change']}".strip()
            )
        own = {str(row["name"]) for row in rows if row.get("own")}
        for (tool, name), lines in chosen.items():
            planned = PlannedCall({"name": name, **options.arguments}, [where])
            (plan.last if tool == CONTAINER and name in own else plan.calls.setdefault(tool, [])).append(planned)
            plan.lines += [f"{where}: {line}" for line in lines]
    if plan.failed and not plan.batches and len(plan.failed) == len(hosts):
        raise outcome.failure(plan.failed) or NotFound("no host answered")
    if unknown := [name for name in options.without if name not in known and not plan.failed]:
        raise NotFound(f"there is no `{unknown[0]}` to leave out; nothing was changed", hint="see anvyl updates")
    return plan


def _why_skipped(row: Mapping[str, Any], options: UpdateOptions) -> str:
    if {str(row["name"]), str(row.get("stack"))} & set(options.without):
        return "excluded"
    held = row.get("held")
    return "" if not held or (held == "age" and options.now) else str(row.get("note") or held)


def _is_partial(stack: str, rows: Sequence[Mapping[str, Any]], options: UpdateOptions) -> bool:
    """Whether a part of a stack is left out, or comes last, so that the others are updated one by one."""
    return any(row.get("stack") == stack and (row.get("own") or _why_skipped(row, options)) for row in rows)


def _confirm(plan: Plan, options: UpdateOptions, *, yes: bool) -> None:
    """Ask before several things are updated; naming one is a yes.

    Raises:
        ApprovalNeeded: there is no terminal.
        Declined: the answer is no.
    """
    several = options.everything or sum(len(step.hosts) for _, calls in plan.batches for step in calls) > 1
    if yes or not several or not plan.batches:
        return
    answer = ask_yes_no(*(f"  {line}" for line in plan.lines), f"Update {text.plural(len(plan.lines), 'container')}?")
    if answer is None:
        raise ApprovalNeeded(
            f"this would update {', '.join(plan.lines)}, and there is no terminal to ask at", hint="add --yes"
        )
    if not answer:
        raise Declined()


async def _run(fleet: Fleet, name: str, steps: Sequence[PlannedCall], *, as_json: bool) -> list[Outcome]:
    """Make the calls of one tool, with a progress bar for each host at a terminal."""
    hosts = [host for step in steps for host in step.hosts]
    answers = None if as_json else AnswerDisplay(None, hosts, changing=name)
    with nullcontext() if as_json else bars.progress_bars(hosts) as report:
        done = await tool_command.call_hosts(fleet, fleet.tool(name), steps, None if report else answers, report)
    if report and answers:
        answers.show_all(done)
    for number, one in enumerate(done):
        if pending_update.is_pending(one):
            goes_on = f"the helper on {one.host} goes on; the result will be in anvyl updates --host {one.host}"
            with OnFailure(lambda _, said=goes_on: output.print_message(said)):  # type: ignore[misc]
                done[number] = await pending_update.wait(fleet, one)
            if not as_json:
                AnswerDisplay(None, [one.host], changing=name).show_all([done[number]])
    return done


def _document(
    done: Sequence[Outcome], skipped: Sequence[Mapping[str, str]], error: AnvylError | None = None
) -> dict[str, Any]:
    error = error or outcome.failure(done)
    return {"calls": outcome.documents(done), "skipped": list(skipped), "error": error.as_dict() if error else None}
