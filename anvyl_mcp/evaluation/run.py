"""Run the tasks one after the other, each on a fresh fleet, with a simulated user who approves what the task wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic_evals import Case, Dataset

from anvyl_mcp.core.errors import ModelUnavailable
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.evaluation.acts.world import World
from anvyl_mcp.evaluation.checks import CHECKS, CHECKS_OF_CALLS, TaskRun, unwanted, wanted
from anvyl_mcp.evaluation.oracle import MANNERS, Oracle, Script
from anvyl_mcp.evaluation.report import Report, TaskResult
from anvyl_mcp.evaluation.simulation import Simulation
from anvyl_mcp.evaluation.tasks import Task
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.models import model_choice
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.peers.changes import wording
from anvyl_mcp.peers.connection.listing import ToolListing


@dataclass(frozen=True)
class Evaluation:
    """Settings of an evaluation: the tasks and the model."""

    settings: Settings
    catalogue: Mapping[str, ToolListing]
    tasks: Sequence[Task]
    model: str = ""
    offline: bool = False
    repeat: int = 1
    oracle: str = ""
    """Manner of the perfect model, used instead of a real one; see `oracle.MANNERS`."""
    on_task: Callable[[str, bool], None] = field(default=lambda ask, passed: None)

    async def run(self) -> Report:
        """Run every task `repeat` times.

        Raises:
            ModelUnavailable: a model is to be measured, and none answers.
        """
        if self.oracle:
            return await self._run_oracle()
        name = "rules"
        if not self.offline:
            name = await self._model()
        results = []
        for task in self.tasks:
            results += await self._measured(task)
        return Report(name, results)

    async def _run_oracle(self) -> Report:
        """The calls and changes of every task, made by a model that is always right."""
        results = []
        with Oracle() as oracle:
            settings = replace(self.settings, lmstudio_url=oracle.url, lmstudio_model="default", drive="tools")
            measured = replace(self, settings=settings, model="")
            for task in self.tasks:
                oracle.script = Script(task, self.catalogue, self.oracle)
                results += await measured._measured(task)
        return Report(f"oracle, {MANNERS[self.oracle]}", results)

    async def _model(self) -> str:
        try:
            return (await model_choice.choose_model(self.settings, model=self.model)).name
        except ModelUnavailable as error:
            hint = f"{error.hint}; or measure the rules: anvyl eval --offline".removeprefix("; or ")
            raise ModelUnavailable(error.message, hint=hint) from error

    async def _measured(self, task: Task) -> list[TaskResult]:
        # One dataset per task, to report progress and to notice a failing model server before the next task.
        dataset = Dataset(
            name="anvyl",
            cases=[Case(name=task.ask, inputs=task)],
            evaluators=CHECKS_OF_CALLS if self.oracle else CHECKS,
        )
        measured = await dataset.evaluate(self._try, max_concurrency=1, progress=False, repeat=self.repeat)
        # An exception in one task counts as a failed task and does not end the evaluation.
        nothing = World({})
        results = [
            TaskResult(task, TaskRun(nothing, self.catalogue), {"Crashed": failed.error_message})
            for failed in measured.failures
        ]
        for case in measured.cases:
            verdicts = {name: verdict.reason or "" for name, verdict in case.assertions.items() if not verdict.value}
            verdicts |= {failed.name: failed.error_message for failed in case.evaluator_failures}
            wrong_changes = len(unwanted(task, case.output))
            results.append(TaskResult(task, case.output, verdicts, wrong_changes))
            self.on_task(task.ask, not verdicts)
        return results

    async def _try(self, task: Task) -> TaskRun:
        simulation = Simulation(World.patched(task.world), self.catalogue)
        wrong_proposals: list[str] = []

        async def decide(proposal: Proposal) -> bool | None:
            listing = self.catalogue[proposal.tool]
            if wanted(task, listing, proposal.arguments, proposal.hosts):
                return True
            wrong_proposals.append(wording.describe(proposal.tool, proposal.arguments, proposal.hosts))
            return False

        question = Question(task.ask)
        assistant = Assistant(simulation.fleet, self.settings)
        reply = await assistant.ask(question, decide=decide, model=self.model, offline=self.offline)
        await simulation.fleet.aclose()
        return TaskRun(
            world=simulation.world,
            catalogue=self.catalogue,
            calls=list(reply.calls),
            done=simulation.done,
            wrong_proposals=wrong_proposals,
            answer=_said(reply),
            mode=reply.mode,
            usage=reply.usage,
            seconds=reply.seconds,
        )


def _said(reply: Reply) -> str:
    return "\n".join(filter(None, [reply.answer, str(reply.error) if reply.error else "", *reply.notes]))


async def evaluate(evaluation: Evaluation, **changes: Any) -> Report:
    """Run an evaluation with the given changes."""
    return await replace(evaluation, **changes).run()
