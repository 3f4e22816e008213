"""Answers a question that the rules read and that only looks, without the agent framework, whose import takes a second.

The plan, the calls and the answer are the same as those of the rules as a Pydantic AI model; what changes something,
and what the rules leave to a language model, goes to the assistant.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from anvyl_mcp.core.errors import AnvylError, Denied, NothingToDo
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.core.values.arguments import coerce_arguments
from anvyl_mcp.orchestrator.ask.aliases import expand
from anvyl_mcp.orchestrator.checks.resolve import Inventory
from anvyl_mcp.orchestrator.question import Question, check_question
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.orchestrator.rules.reader import Plan, Reader, surroundings_of
from anvyl_mcp.orchestrator.rules.results.answers import (
    RULES,
    Call,
    Turn,
    answer,
    describe_source,
    result_metadata,
    went_wrong,
)
from anvyl_mcp.orchestrator.run import EndReason, Responder, Run
from anvyl_mcp.peers.changes.argument_check import check
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.fleet.targets import resolve_targets

TRACED = "OTEL_EXPORTER_"
"""Prefix of the variables that turn tracing on, which belongs to the agent framework."""


@dataclass(frozen=True)
class PlayedCall:
    """A call that the rules made."""

    tool_name: str
    arguments: Mapping[str, Any]

    def args_as_dict(self) -> dict[str, Any]:
        """Its arguments."""
        return dict(self.arguments)


@dataclass(frozen=True)
class PlayedResult:
    """Its result."""

    tool_name: str
    content: str
    outcome: str
    metadata: Mapping[str, Any]


async def answer_quickly(run: Run, fleet: Fleet, settings: Settings, *, model: str, offline: bool) -> Reply | None:
    """Answer a question that the rules account for to the last word, or, if `offline`, one that they read at all.

    None if it changes something or is left to the assistant; no call has been made then.
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
        reader = Reader(surroundings_of(fleet, inventory, question.host or question.home), exact=not offline)
        plan = await reader.plan(expanded.text)
        if not plan.only_reads or question.unclear:
            return None
        placed = [[(call, *await _placed(call, fleet, question, inventory)) for call in step] for step in plan.steps]
    except NothingToDo:
        return None
    except AnvylError as error:
        if not offline:
            return None
        run.end(EndReason.FAILED, error)
        reply.error = error
    else:
        run.reword(expanded.text)
        run.record_response(Responder.RULES)
        reply.notes += expanded.notes
        reply.answer = await _play(placed, fleet, run, plan.said or run.question.text)
        run.finish()
        reply.notes += _notes(plan)
    reply.seconds = round(time.monotonic() - started, 3)
    return reply


def _notes(plan: Plan) -> list[str]:
    read_as = [f"read as: {plan.read_as}"] if plan.read_as else []
    return [*read_as, *plan.remarks]


async def _placed(
    call: Call, fleet: Fleet, question: Question, inventory: Inventory
) -> tuple[dict[str, Any], list[str]]:
    """The arguments of a call, and its hosts."""
    given = {name: value for name, value in call.arguments.items() if name != "host"}
    arguments = coerce_arguments(call.listing.input_schema, given)
    check(call.listing, arguments)
    selector = str(call.arguments.get("host") or question.host or question.home)
    hosts = await resolve_targets(fleet, call.listing, arguments, selector, lister=inventory.outcomes)
    if question.host and (outside := set(hosts) - set(fleet.select(question.host))):
        raise Denied(f"this question is about {question.host} only, not {', '.join(sorted(outside))}")
    return arguments, hosts


async def _play(
    steps: list[list[tuple[Call, dict[str, Any], list[str]]]], fleet: Fleet, run: Run, question: str
) -> str:
    """Make the calls of each step together, and answer the question, in English, from the results."""
    turn = Turn(question)

    async def make(number: str, call: Call, arguments: dict[str, Any], hosts: list[str]) -> None:
        listing = call.listing
        run.begin_call(listing.name, arguments, hosts)
        outcomes = await fleet.call_many(
            hosts, listing.name, arguments, on_behalf=run.question.on_behalf, on_outcome=run.end_call
        )
        if listing.untrusted:
            run.record_untrusted(describe_source(listing, arguments, hosts))
        turn.results[number] = PlayedResult(listing.name, "", "success", result_metadata(outcomes, listing))

    for number, step in enumerate(steps):
        async with anyio.create_task_group() as group:
            for index, (call, arguments, hosts) in enumerate(step):
                key = f"{number}.{index}"
                turn.calls[key] = PlayedCall(call.listing.name, call.arguments)
                group.start_soon(make, key, call, arguments, hosts)
        if any(went_wrong(turn.results[key]) for key in turn.results if key.startswith(f"{number}.")):
            break
    turn.results = {key: turn.results[key] for key in turn.calls if key in turn.results}
    return answer(fleet.catalogue, turn)
