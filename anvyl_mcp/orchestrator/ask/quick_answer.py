"""Plays a plan of the rules without the agent framework, whose import takes seconds on a busy machine.

Its calls take the path that those of a model take: they are checked, decided and made by `FleetCalls`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import anyio

from anvyl_mcp.core.errors import AnvylError, NothingToDo
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.orchestrator.ask import report
from anvyl_mcp.orchestrator.ask.aliases import expand
from anvyl_mcp.orchestrator.ask.fleet_calls import CheckedCall, FleetCalls, OverBudget, decide_proposals
from anvyl_mcp.orchestrator.checks.consent import RootReasons, no_root_reasons
from anvyl_mcp.orchestrator.checks.resolve import Inventory
from anvyl_mcp.orchestrator.question import Decide, check_question
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.orchestrator.rules.reader import Before, Plan, Reader, surroundings_of
from anvyl_mcp.orchestrator.rules.results.answers import (
    RULES,
    Call,
    CallResult,
    MadeCall,
    Turn,
    announcement,
    answer,
    not_tried,
    result_metadata,
    went_wrong,
)
from anvyl_mcp.orchestrator.run import Responder, Run
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet

TRACED = "OTEL_EXPORTER_"
"""Prefix of the variables that turn tracing on, which belongs to the agent framework."""


async def answer_quickly(
    run: Run,
    decide: Decide,
    *,
    fleet: Fleet,
    settings: Settings,
    model: str,
    offline: bool,
    root_reasons: RootReasons = no_root_reasons,
) -> Reply | None:
    """Answer a question that the rules account for to the last word, or, if `offline`, one that they read at all.

    None if it is left to the assistant; no call has been made then.
    """
    first = settings.rules == "first" and settings.drive == "auto" and not model
    if settings.rules == "off" or not (offline or first) or any(name.startswith(TRACED) for name in os.environ):
        return None
    started, question = time.monotonic(), run.question
    reply = Reply(run, model=RULES)
    try:
        check_question(question, fleet.select)
        expanded = expand(question.text, settings)
        inventory = Inventory(fleet)
        before = Before.NO_MODEL if offline else Before.CAPABLE_MODEL
        reader = Reader(surroundings_of(fleet, inventory, question.host or question.home), before=before)
        plan = await reader.plan(expanded.text)
    except AnvylError as error:
        if not offline and not isinstance(error, NothingToDo):
            return None
        reply.fail(error)
    else:
        if question.unclear:
            return None
        run.reword(expanded.text)
        reply.notes += expanded.notes
        calls = FleetCalls(fleet, inventory=inventory, root_reasons=root_reasons)
        await play(plan, reply, calls, fleet.catalogue, decide)
    reply.finish(time.monotonic() - started)
    return reply


async def play(plan: Plan, reply: Reply, calls: FleetCalls, tools: Mapping[str, ToolListing], decide: Decide) -> None:
    """Make the calls of a plan, those of each step together, and answer from their results.

    The next step waits for the success of the one before, and for the approval of its changes.
    """
    run = reply.run
    run.record_response(Responder.RULES)
    run.record_interpretation(plan.read_as)
    run.record_remarks(plan.remarks, plan.doubts)
    turn = Turn(plan.said or run.question.text)
    later: list[Call] = []
    for number, step in enumerate(plan.steps):
        keyed = {f"{number}.{index}": call for index, call in enumerate(step)}
        turn.calls |= {key: MadeCall(call.listing.name, call.arguments) for key, call in keyed.items()}
        results = await _play_step(keyed, calls, run, decide)
        turn.results |= {key: results[key] for key in keyed if key in results}
        later = [call for rest in plan.steps[number + 1 :] for call in rest]
        if run.waiting or any(went_wrong(result) for result in results.values()):
            break
    if run.waiting:
        reply.answer = " ".join(filter(None, [report.describe_pending(run), announcement(later)]))
    else:
        reply.answer = "\n".join(filter(None, [answer(tools, turn), not_tried(later)]))
    report.conclude(reply)
    report.fail_if_not_changed(reply, "read" if plan.only_reads else "change", tools)


async def _play_step(step: Mapping[str, Call], calls: FleetCalls, run: Run, decide: Decide) -> dict[str, CallResult]:
    """Make calls together, once all changes among them are decided. The results by id, without what is pending."""
    results: dict[str, CallResult] = {}
    proposed: list[str] = []
    created = calls.created_by((call.listing.name, call.arguments) for call in step.values())

    async def make(id_: str, checked: CheckedCall) -> None:
        outcomes = await calls.make(checked, run)
        results[id_] = CallResult(checked.listing.name, metadata=result_metadata(outcomes, checked.listing))

    async def check(id_: str, call: Call) -> None:
        name = call.listing.name
        try:
            checked = await calls.check(name, call.arguments, run, id_, created=created)
        except NothingToDo as done:
            results[id_] = CallResult(name, f"{done.message}.")
        except (AnvylError, OverBudget) as error:
            results[id_] = CallResult(name, str(error), "failed")
        else:
            if checked.waits:
                proposed.append(id_)
            else:
                await make(id_, checked)

    async with anyio.create_task_group() as group:
        for id_, call in step.items():
            group.start_soon(check, id_, call)
    if not proposed:
        return results
    decisions = await decide_proposals(run, [id_ for id_ in step if id_ in proposed], decide)
    async with anyio.create_task_group() as group:
        for id_, approved in decisions.items():
            if approved:
                group.start_soon(make, id_, calls.approved(run.proposals[id_]))
            else:
                results[id_] = CallResult(step[id_].listing.name, outcome="denied")
    return results
