"""Report of an evaluation: completed tasks by kind, and cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from anvyl_mcp.evaluation.tasks import Task

if TYPE_CHECKING:
    from anvyl_mcp.evaluation.checks import TaskRun


@dataclass(frozen=True)
class TaskResult:
    """One run of a task: failed checks with reasons, and the number of unrequested changes."""

    task: Task
    task_run: TaskRun
    failures: Mapping[str, str]
    wrong_changes: int = 0

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "ask": self.task.ask,
            "kind": self.task.kind,
            "steps": self.task.steps,
            "passed": self.passed,
            "failures": dict(self.failures),
            "wrong_changes": self.wrong_changes,
            "wrong_proposals": list(self.task_run.wrong_proposals),
            "calls": [
                {"tool": one.tool, "host": one.host, "arguments": dict(one.arguments), "ok": one.ok}
                for one in self.task_run.calls
            ],
            "answer": self.task_run.answer,
            "mode": self.task_run.mode,
            "usage": dict(self.task_run.usage),
            "seconds": self.task_run.seconds,
        }


@dataclass(frozen=True)
class Report:
    """All results of one model, or of the rules."""

    model: str
    results: Sequence[TaskResult]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wrong_changes(self) -> int:
        """Unrequested changes that were made; approvals should keep it at zero."""
        return sum(result.wrong_changes for result in self.results)

    @property
    def wrong_proposals(self) -> int:
        """Unrequested changes that were proposed."""
        return sum(len(result.task_run.wrong_proposals) for result in self.results)

    @property
    def by_rules(self) -> int:
        """Tasks answered by the rules instead of the model."""
        return sum(result.task_run.mode == "rules" for result in self.results) if self.model != "rules" else 0

    def grouped(self, key: Callable[[Task], str]) -> dict[str, dict[str, Any]]:
        """Counts grouped by `key`."""
        groups: dict[str, list[TaskResult]] = defaultdict(list)
        for result in self.results:
            groups[key(result.task)].append(result)
        return {name: _counted(results) for name, results in groups.items()}

    def as_dict(self) -> dict[str, Any]:
        """JSON document of `anvyl eval --json`."""
        return {
            "model": self.model,
            **self.settings,
            **_counted(self.results),
            "wrong_changes": self.wrong_changes,
            "wrong_proposals": self.wrong_proposals,
            "by_rules": self.by_rules,
            "kinds": self.grouped(lambda task: task.kind),
            "steps": self.grouped(lambda task: task.steps),
            "results": [result.as_dict() for result in self.results],
            "error": None,
        }


def _counted(results: Sequence[TaskResult]) -> dict[str, Any]:
    passed = sum(result.passed for result in results)
    seconds = [result.task_run.seconds for result in results] or [0.0]
    return {
        "tasks": len(results),
        "passed": passed,
        "pass_rate": round(passed / len(results), 4) if results else 0.0,
        "requests": _mean(results, "requests"),
        "input_tokens": _mean(results, "input_tokens"),
        "output_tokens": _mean(results, "output_tokens"),
        "seconds": {"median": round(median(seconds), 3), "longest": max(seconds), "total": round(sum(seconds), 1)},
    }


def _mean(results: Sequence[TaskResult], what: str) -> float:
    """Mean of one usage figure per task."""
    return round(mean([result.task_run.usage.get(what, 0) for result in results] or [0]), 1)
