"""Holds proposed changes for approval, and executes exactly these calls on exactly these objects once approved."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from anvyl_mcp.core.errors import AnvylError, Conflict, NotFound
from anvyl_mcp.orchestrator.approvals import PendingCall
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.orchestrator.rules.results.answers import CallResult, MadeCall, Turn, answer, result_metadata
from anvyl_mcp.orchestrator.run import EndReason, Run
from anvyl_mcp.peers.changes import change_plan
from anvyl_mcp.peers.fleet.fleet import ExpectedObjects, Fleet
from anvyl_mcp.peers.fleet.targets import expected_container


async def pending_call(fleet: Fleet, proposal: Proposal, notes: list[str]) -> PendingCall:
    """Convert a proposal for storage, with the current state of its objects. Hosts without the container are left out.

    Adds a note for each host that is left out.

    Raises:
        NotFound: no host has the container.
        AnvylError: no host can be reached.
    """
    notes += [f"left out {host}: {error.message}" for host, error in proposal.problems.items()]
    tool = fleet.tool(proposal.tool)
    unseen = [host for host in proposal.hosts if host not in proposal.expected]
    seen = {**proposal.expected, **await change_plan.expected_objects(fleet, tool, proposal.arguments, unseen)}
    names = [name for name, kind in tool.names.items() if kind == "container"]
    wanted = next((str(proposal.arguments[name]) for name in names if proposal.arguments.get(name)), "")
    if not wanted:
        return PendingCall(
            proposal.tool,
            proposal.arguments,
            tuple(proposal.hosts),
            seen,
            untrusted=proposal.untrusted,
            why=proposal.why,
            details=proposal.details,
        )
    found, problems = dict[str, ExpectedObjects](), dict[str, AnvylError]()
    for host in proposal.hosts:
        try:
            known = seen.get(host)
            found[host] = known if known and known.id else await expected_container(fleet, host, wanted)
        except AnvylError as error:
            problems[host] = error
            notes.append(f"left out {host}: {error.message}")
    if not found:
        host, problem = next(iter(problems.items()))
        raise problem if isinstance(problem, NotFound) else problem.on_host(host)
    return PendingCall(proposal.tool, proposal.arguments, tuple(found), found, proposal.untrusted, proposal.why)


async def execute_pending(fleet: Fleet, question: Question, calls: Sequence[PendingCall]) -> Reply:
    """Execute calls in order, until one fails on all its hosts. Errors are in the reply.

    Each host refuses if the container was replaced, or changed its state, since the question was asked.
    """
    started, run = time.monotonic(), Run(question)
    reply = Reply(run)
    turn, touched = Turn(question.text), {host: set[str]() for call in calls for host in call.hosts}

    for number, call in enumerate(calls):
        proposal = Proposal(f"held-{number}", call.tool, dict(call.arguments), list(call.hosts), decision="approved")
        run.propose(proposal)
        run.begin_call(call.tool, call.arguments, call.hosts)
        outcomes = await fleet.call_many(
            call.hosts,
            call.tool,
            call.arguments,
            on_behalf=question.on_behalf,
            expected={host: _since(one, touched[host]) for host, one in call.expected.items()},
            on_outcome=run.end_call,
        )
        # A later call of the same approval may act on objects that an earlier one changed.
        for host in call.hosts:
            touched[host] |= change_plan.changed_objects(fleet.tool(call.tool), call.arguments)
            touched[host] |= {one.id for one in [call.expected.get(host)] if one}
        turn.calls[proposal.id] = MadeCall(call.tool, proposal.arguments)
        metadata = result_metadata(outcomes, fleet.tool(call.tool))
        turn.results[proposal.id] = CallResult(call.tool, metadata=metadata)
        if not any(outcome.ok for outcome in outcomes.values()):
            reply.notes += [f"{later.tool} was not tried, because {call.tool} failed" for later in calls[number + 1 :]]
            break
    reply.answer = answer(fleet.catalogue, turn)
    if run.calls and all(isinstance(call.error, Conflict) for call in run.calls):
        # The approved objects do not exist any more, so nothing was done.
        reply.error = run.calls[0].error
        run.end(EndReason.FAILED, reply.error)
    run.finish()
    reply.seconds = round(time.monotonic() - started, 3)
    return reply


def _since(expected: ExpectedObjects, touched: Collection[str]) -> ExpectedObjects:
    """What is left to expect after earlier calls: the same container in any state, and the objects they left alone."""
    state = "" if expected.id in touched else expected.state
    return ExpectedObjects(
        expected.id, state, {what: id_ for what, id_ in expected.others.items() if what not in touched}
    )
