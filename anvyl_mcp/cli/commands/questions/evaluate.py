"""`anvyl eval`: runs tasks on a simulated fleet and prints how well a model did."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anvyl_mcp.cli.parser.options import JsonOption
from anvyl_mcp.cli.runtime import output
from anvyl_mcp.cli.runtime.runner import run_command
from anvyl_mcp.core import extras
from anvyl_mcp.core.errors import AnvylError, InvalidInput
from anvyl_mcp.core.settings import Settings

if TYPE_CHECKING:
    from anvyl_mcp.evaluation.report import Report

COLUMNS = ("kind", "done", "of", "rate", "requests", "tokens in", "tokens out", "seconds")


def evaluate(
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="The model to measure.")] = "",
    drive: Annotated[str, typer.Option(metavar="MODE", help="How to drive the model: tools, plan or auto.")] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Measure the rules instead of a language model.")] = False,
    oracle: Annotated[
        str,
        typer.Option(
            metavar="MANNER", help="Simulate a perfect model that calls like this, for example together or each."
        ),
    ] = "",
    tasks: Annotated[
        str, typer.Option(metavar="NAMES", help="Tasks to run, like act, multi, heldout or all, or a .toml file.")
    ] = "",
    repeat: Annotated[int, typer.Option(metavar="TIMES", help="How many times to run each task.", min=1, max=100)] = 1,
    failures: Annotated[bool, typer.Option("--failures", help="Show why each failed task failed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure how well a model manages hosts, on simulated ones."""

    async def work(settings: Settings) -> int:
        _require_pydantic_evals()
        from anvyl_mcp.app.catalogue import load_catalogue
        from anvyl_mcp.evaluation.oracle import MANNERS
        from anvyl_mcp.evaluation.run import Evaluation
        from anvyl_mcp.evaluation.tasks import load

        if oracle and oracle not in MANNERS:
            raise InvalidInput(f"`{oracle}` is not a manner of the perfect model", hint=f"choose {', '.join(MANNERS)}")
        chosen = load(tasks)
        output.print_message(f"{len(chosen)} tasks on a simulated fleet; your hosts are not touched")
        report = await Evaluation(
            settings,
            load_catalogue(settings.cache_dir),
            chosen,
            model=model,
            offline=offline,
            oracle=oracle,
            repeat=repeat,
            on_task=_progress,
        ).run()
        if as_json:
            output.print_json(report.as_dict() | {"drive": drive or None})
        else:
            _show(report, failures=failures)
        return 0

    run_command(work, flags={"drive": drive or None}, failed=_failed if as_json else None)


def _require_pydantic_evals() -> None:
    if importlib.util.find_spec("pydantic_evals") is None:
        raise InvalidInput(
            "`anvyl eval` needs a package that is not installed: pydantic-evals",
            hint=f"install it: {extras.install_command('eval')}",
        )


def _failed(error: AnvylError) -> dict[str, Any]:
    return {"model": None, "tasks": 0, "passed": 0, "pass_rate": 0.0, "results": [], "error": error.as_dict()}


def _progress(ask: str, passed: bool) -> None:
    output.print_message(f"{'ok  ' if passed else 'FAIL'}  {ask}")


def _show(report: Report, *, failures: bool) -> None:
    whole = report.as_dict()
    groups = [*report.grouped(lambda task: task.kind).items(), *report.grouped(lambda task: task.steps).items()]
    output.print_table(COLUMNS, [_row(name, counted) for name, counted in [*groups, ("all", whole)]])
    if failures:
        for result in report.results:
            if not result.passed:
                output.print_text(f"\n{result.task.ask}\n  " + "\n  ".join(result.failures.values()))
                output.print_text("  answered: " + result.task_run.answer.replace("\n", "\n    "))
    by_rules = f"; the rules answered {report.by_rules} of them" if report.by_rules else ""
    output.print_text(
        f"\n{report.model}: {whole['passed']} of {whole['tasks']} tasks done, "
        f"{report.wrong_changes} wrong changes made, {report.wrong_proposals} wrong changes proposed{by_rules}"
    )


def _row(name: str, counted: dict[str, Any]) -> Sequence[str]:
    rate = f"{counted['pass_rate'] * 100:.0f} %"
    took = f"{counted['seconds']['median']:g}"
    numbers = [f"{counted[one]:g}" for one in ("requests", "input_tokens", "output_tokens")]
    return [name, str(counted["passed"]), str(counted["tasks"]), rate, *numbers, took]
