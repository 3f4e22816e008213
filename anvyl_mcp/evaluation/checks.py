"""Checks of a task: calls, final state of the hosts, approvals and the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_evals.evaluators import EvaluationReason, Evaluator, EvaluatorContext

from anvyl_mcp.core import text
from anvyl_mcp.evaluation.acts import perform
from anvyl_mcp.evaluation.acts.world import World
from anvyl_mcp.evaluation.simulation import Done
from anvyl_mcp.evaluation.tasks import Task, Want
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Outcome


@dataclass
class TaskRun:
    """Result of running one task."""

    world: World
    catalogue: Mapping[str, ToolListing]
    calls: list[Outcome] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    wrong_proposals: list[str] = field(default_factory=list)
    """Proposed changes that the task does not ask for; the simulated user rejected them."""
    answer: str = ""
    mode: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def seen(self) -> str:
        """The answer and the results, as shown to the user."""
        results = [f"{one.host} {one.answer.text} {json.dumps(one.answer.result)}" for one in self.calls]
        return "\n".join([self.answer, *results, *(str(one.error) for one in self.calls if one.error)])


@dataclass
class Calls(Evaluator[Task, TaskRun, None]):
    """Check that all required reads were made, on exactly the right hosts."""

    def evaluate(self, ctx: EvaluatorContext[Task, TaskRun, None]) -> EvaluationReason:
        """True, or the missing calls."""
        return _verdict(missing for want in ctx.inputs.calls for missing in _missing(want, ctx.output.calls))


@dataclass
class State(Evaluator[Task, TaskRun, None]):
    """Check the final state of the hosts: the requested changes and no others."""

    def evaluate(self, ctx: EvaluatorContext[Task, TaskRun, None]) -> EvaluationReason:
        """True, or the differences."""
        task, task_run = ctx.inputs, ctx.output
        undone = [str(want) for want in task.changes if not _whole(want, task_run)]
        wrong = [_shown(one) for one in unwanted(task, task_run)]
        if not undone and not wrong and task_run.world != _expected(task, task_run):
            wrong = ["the hosts are not as they should be"]
        return _verdict([*(f"not done: {one}" for one in undone), *(f"done unasked: {one}" for one in wrong)])


@dataclass
class Asked(Evaluator[Task, TaskRun, None]):
    """Check that approvals were requested only for changes of the task."""

    def evaluate(self, ctx: EvaluatorContext[Task, TaskRun, None]) -> EvaluationReason:
        """True, or the additional proposals."""
        return _verdict(f"proposed: {one}" for one in ctx.output.wrong_proposals)


@dataclass
class Said(Evaluator[Task, TaskRun, None]):
    """Check the required and forbidden patterns in the answer and the results."""

    def evaluate(self, ctx: EvaluatorContext[Task, TaskRun, None]) -> EvaluationReason:
        """True, or the patterns that failed."""
        task, task_run = ctx.inputs, ctx.output
        return _verdict(
            [
                *(f"not in the answer: {one}" for one in task.answer if not _holds(one, task_run.answer)),
                *(f"not shown: {one}" for one in task.shown if not _holds(one, task_run.seen)),
                *(f"said: {one}" for one in task.unsaid if _holds(one, task_run.answer)),
            ]
        )


CHECKS_OF_CALLS = (Calls(), State(), Asked())
CHECKS = (*CHECKS_OF_CALLS, Said())


def unwanted(task: Task, task_run: TaskRun) -> list[Done]:
    """Changes made that the task neither wants nor allows."""
    wants = (*task.changes, *task.allowed)
    return [one for one in task_run.done if not any(_is(want, one, task_run) for want in wants)]


def wanted(task: Task, listing: ToolListing, arguments: Mapping[str, Any], hosts: Sequence[str]) -> bool:
    """Whether the task wants or allows this change on these hosts."""
    return any(
        want.is_change(listing, arguments) and (not want.hosts or set(hosts) <= want.hosts)
        for want in (*task.changes, *task.allowed)
    )


def _missing(want: Want, calls: Sequence[Outcome]) -> Iterator[str]:
    answered = {one.host for one in calls if one.ok and want.is_read(one.tool, one.arguments)}
    if not answered or (want.hosts and answered != want.hosts):
        instead = f", asked: {', '.join(sorted(answered))}" if answered else ""
        yield f"not called: {want}{instead}"


def _whole(want: Want, task_run: TaskRun) -> bool:
    """Whether a change was made once on every required host."""
    hosts = [one.host for one in task_run.done if _is(want, one, task_run)]
    return len(hosts) == len(set(hosts)) and (set(hosts) == want.hosts if want.hosts else len(hosts) == 1)


def _is(want: Want, one: Done, task_run: TaskRun) -> bool:
    return want.is_change(task_run.catalogue[one.tool], one.arguments) and (not want.hosts or one.host in want.hosts)


def _expected(task: Task, task_run: TaskRun) -> World:
    """World of the task after the changes that were made and are allowed."""
    world, wrong = World.patched(task.world), unwanted(task, task_run)
    for one in task_run.done:
        if one not in wrong:
            listing = task_run.catalogue[one.tool]
            defaults = {name: schema["default"] for name, schema in listing.arguments.items() if "default" in schema}
            perform(world.hosts[one.host], one.tool, {**defaults, **one.arguments})
    return world


def _shown(one: Done) -> str:
    arguments = " ".join(f"{name}={text.format_value(value)}" for name, value in one.arguments.items())
    return f"{one.tool} {arguments} on {one.host}"


def _holds(pattern: str, said: str) -> bool:
    return re.search(pattern, said, re.IGNORECASE) is not None


def _verdict(problems: Iterator[str] | Sequence[str]) -> EvaluationReason:
    found = list(problems)
    return EvaluationReason(value=not found, reason="; ".join(found) or None)
