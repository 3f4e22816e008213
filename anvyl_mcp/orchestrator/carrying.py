"""Doing what a person approved: exactly the calls that were shown, on the very containers that were meant."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from pydantic_ai.messages import ToolCallPart, ToolReturnPart

from anvyl_mcp.errors import AnvylError, Conflict
from anvyl_mcp.orchestrator.answers import Turn, answer
from anvyl_mcp.orchestrator.approvals import HeldCall
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.orchestrator.toolset import for_rules
from anvyl_mcp.peers import targets
from anvyl_mcp.peers.fleet import Expected, Fleet, Outcome
from anvyl_mcp.peers.listing import Answer, ToolListing


async def held_call(fleet: Fleet, proposal: Proposal, notes: list[str]) -> HeldCall:
    """A proposal with the containers that its names mean now; a host that has none is left out, with a note.

    Raises:
        NotFound: no host has it.
        AnvylError: no host can be asked.
    """
    listing, ids, problems = fleet.tool(proposal.tool), {}, list[AnvylError]()
    for host in proposal.hosts:
        try:
            ids[host] = await _meant(fleet, listing, proposal.arguments, host)
        except AnvylError as error:
            problems.append(error)
            notes.append(f"left out {host}: {error.message}")
    if not ids:
        raise problems[0]
    expected = {host: asdict(one) for host, one in proposal.expected.items()}
    return HeldCall(proposal.tool, proposal.arguments, tuple(ids), ids, proposal.untrusted, expected)


async def carry_out(fleet: Fleet, question: Question, calls: Sequence[HeldCall]) -> Reply:
    """Do the calls one after the other, as far as each works somewhere. What goes wrong is in the reply."""
    started, reply = time.monotonic(), Reply(question)
    turn = Turn(question.text)
    for number, call in enumerate(calls):
        proposal = Proposal(f"held-{number}", call.tool, dict(call.arguments), list(call.hosts), decision="approved")
        question.proposals[proposal.id] = proposal
        question.on_call(call.tool, call.arguments, list(call.hosts))
        outcomes = await _carried(fleet, question, call)
        turn.calls[proposal.id] = ToolCallPart(call.tool, proposal.arguments, proposal.id)
        told = for_rules(outcomes, fleet.tool(call.tool))
        turn.results[proposal.id] = ToolReturnPart(call.tool, "", proposal.id, metadata=told)
        if not any(outcome.ok for outcome in outcomes.values()):
            reply.notes += [f"{left.tool} was not tried, because {call.tool} failed" for left in calls[number + 1 :]]
            break
    reply.answer = answer(fleet.catalogue, turn)
    if question.calls and all(isinstance(call.error, AnotherOne) for call in question.calls):
        reply.error = question.calls[0].error
    reply.seconds = round(time.monotonic() - started, 3)
    return reply


class AnotherOne(Conflict):
    """The name means another container than the one that was approved."""


async def _carried(fleet: Fleet, question: Question, call: HeldCall) -> Mapping[str, Outcome]:
    """One call where its containers are still those that were meant; elsewhere the reason why not."""
    outcomes: dict[str, Outcome] = {}
    listing = fleet.tool(call.tool)
    for host in call.hosts:
        try:
            if await _meant(fleet, listing, call.arguments, host) != call.ids.get(host, {}):
                raise AnotherOne(
                    "it is another container by now than the one that was approved", hint="ask again, and look first"
                )
        except AnvylError as error:
            outcomes[host] = Outcome(host, call.tool, call.arguments, Answer(error=error), 0)

    def note(outcome: Outcome) -> None:
        question.calls.append(outcome)
        question.on_outcome(outcome)

    for outcome in outcomes.values():
        note(outcome)
    left = [host for host in call.hosts if host not in outcomes]
    expected = {host: Expected(**one) for host, one in call.expected.items()}
    done = await fleet.call_many(
        left, call.tool, call.arguments, on_behalf=question.on_behalf, expected=expected, on_outcome=note
    )
    return {host: outcomes.get(host) or done[host] for host in call.hosts}


async def _meant(fleet: Fleet, listing: ToolListing, arguments: Mapping[str, object], host: str) -> dict[str, str]:
    """Which containers the names in a call mean on one host."""
    return {
        name: await targets.identity(fleet, host, kind, str(arguments[name]))
        for name, kind in listing.names.items()
        if kind == "container" and arguments.get(name)
    }
