"""Answers questions that come over HTTP, with the caller's rights, and keeps their changes until they are approved."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio

from anvyl_mcp.core.errors import AnvylError, Busy, InvalidInput, NotUnderstood
from anvyl_mcp.core.text import join_names
from anvyl_mcp.orchestrator.api.direct_call import scope_of, waiting_call
from anvyl_mcp.orchestrator.api.endpoint import ApiCaller, CallHooks, RequiredScope, require_relay
from anvyl_mcp.orchestrator.api.forwarding import Forwarding
from anvyl_mcp.orchestrator.api.schemas import Answer, Approval, DoneCall, Waiting, WaitingCall
from anvyl_mcp.orchestrator.approvals import Approvals, PendingApproval, expiry, new_id
from anvyl_mcp.orchestrator.ask import report
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.ask.conversation import Conversation, Conversations
from anvyl_mcp.orchestrator.ask.execute_approved import execute_pending, pending_call
from anvyl_mcp.orchestrator.question import Proposal, Question, leave_pending
from anvyl_mcp.orchestrator.reply import NO_MODEL, Reply
from anvyl_mcp.orchestrator.rules.results.answers import CANCELLED
from anvyl_mcp.peers.changes import outcome
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet, OnBehalf, Outcome
from anvyl_mcp.peers.fleet.single_host import SingleHostFleet
from anvyl_mcp.peers.fleet.targets import hosts_by_name
from anvyl_mcp.peers.hops import Hop, append_hop

log = logging.getLogger(__name__)

MOST_CONCURRENT = 16
"""Questions answered at the same time, to limit the load on models and engines; more are queued."""
MOST_QUEUED = 256
QUEUE_SECONDS = 60.0


class AgentService:
    """Answers questions and executes the changes that their callers approve."""

    def __init__(self, assistant: Assistant, fleet: Fleet, approvals: Approvals, own_hop: Hop) -> None:
        self.fleet = fleet
        self.approvals = approvals
        self.own_hop = own_hop
        self.forwarding = Forwarding(self)
        self._assistant = assistant
        self._single_host_fleet = SingleHostFleet(fleet)
        self._single_host_assistant = assistant.on(self._single_host_fleet)
        self._conversations = Conversations()
        self._slots = anyio.CapacityLimiter(MOST_CONCURRENT)

    async def process(
        self,
        text: str,
        caller: ApiCaller,
        *,
        approve: bool = False,
        path: tuple[Hop, ...] = (),
        default_local: bool = False,
        single_host: bool = False,
        conversation: str = "",
        hooks: CallHooks | None = None,
    ) -> Answer | Waiting:
        """Answer one question. Changes wait for approval; `approve` executes those that the question itself asks for.

        A question may refer to those before it in the same `conversation` of the same caller.

        A question forwarded along `path`, or one with `default_local`, concerns this host unless it names others.
        With `single_host`, or a token without the relay mark, it may concern no other host.

        Raises:
            Denied: it names another host, and the token is for this host only.
            InvalidInput: it names another host, and was broadcast.
            Conflict: this host is on the path already.
            AnvylError: there is no answer.
        """
        append_hop(path, self.own_hop)
        home = self.fleet.local.name if path or default_local else ""
        turns = self._conversations.find(caller, conversation) if conversation else None
        if caller.relay and not single_host:
            return await self.answer(text, caller, approve=approve, home=home, hooks=hooks, conversation=turns)
        await self._require_no_other_host(text, caller)
        answer = await self.answer(
            text,
            caller,
            approve=approve,
            home=self.fleet.local.name,
            hooks=hooks,
            assistant=self._single_host_assistant,
            conversation=turns,
        )
        fleet = self._single_host_fleet
        expected = caller.relay or path or default_local or not fleet.others or fleet.is_named_in(text)
        return answer if expected else _with_single_host_note(answer, self.fleet.local.name)

    async def _require_no_other_host(self, text: str, caller: ApiCaller) -> None:
        """Check that a question names no other host, except where that is also the name of a container here.

        Raises:
            Denied: the caller's token is for this host only.
            InvalidInput: the question was broadcast, so each host answers for itself.
        """
        named = self._single_host_fleet.others_in(text)
        if not named or set(named) <= set(await hosts_by_name(self._single_host_fleet, "container")):
            return
        require_relay(caller, self.fleet.local.name, f"ask {join_names(named)}")
        raise InvalidInput(
            f"the question names {join_names(named)}, but each host answers a broadcast for itself only",
            hint=f"ask that host directly: anvyl agent query-remote {named[0]} …",
        )

    async def answer(
        self,
        text: str,
        caller: ApiCaller,
        *,
        approve: bool = False,
        home: str = "",
        host: str = "",
        hooks: CallHooks | None = None,
        assistant: Assistant | None = None,
        conversation: Conversation | None = None,
    ) -> Answer | Waiting:
        """Answer one question with this host's agent, or with `assistant` if it may not use the whole fleet.

        Raises:
            AnvylError: there is no answer.
        """
        # The user who started this process acts for themselves, not on behalf of a caller.
        rights = None if caller.how == "local" else OnBehalf(caller.name, caller.scopes)
        hooks = hooks or CallHooks()
        completed = (conversation or Conversation()).complete(text, self.fleet.hosts)
        question = _with_debug_log(
            Question(
                completed.text,
                asked=text,
                host=host,
                home=home,
                on_behalf=rights,
                on_call=hooks.on_call,
                on_outcome=hooks.on_outcome,
                earlier=conversation.earlier if conversation else "",
                turns=conversation.history if conversation else (),
                unclear=completed.unclear,
            )
        )
        async with self._slot():
            # A name that came from a host's output is not one that the person said.
            decide = approve_if_covered if approve and not completed.found else leave_pending
            reply = await (assistant or self._assistant).ask(question, decide=decide)
        if conversation is not None and not isinstance(reply.error, NotUnderstood):
            conversation.add(text, completed, reply, self.fleet.catalogue)
        if reply.error is not None and not reply.calls:
            log.debug("no answer: %s", reply.error)
            raise _with_model_problem(reply.error, reply.notes)
        log.debug("answered by %s %s in %.3f s", reply.mode, reply.model, reply.seconds)
        answer = await self._hold_changes(reply, caller) if reply.waiting else answer_of(reply, self.fleet.catalogue)
        return answer.model_copy(update={"meant": completed.text}) if completed.text != text else answer

    async def decide(self, id_: str, caller: ApiCaller, *, approve: bool, request_id: str = "") -> Answer:
        """Execute or drop the changes of an approval, here or on the host that holds them. The id is then used up.

        Raises:
            Denied: the caller lacks a scope for it; the approval stays valid.
            NotFound, Gone: no such approval, or it was used or has expired.
            Conflict: every container has been replaced since.
            AnvylError: the host that holds it does not answer.
        """
        pending = await anyio.to_thread.run_sync(self.approvals.get, id_)
        for call in pending.calls if approve else ():
            caller.require(self.scope(call.tool), f"approving `{call.tool}`")
            if pending.forwarded is not None or set(call.hosts) - {self.fleet.local.name}:
                require_relay(caller, self.fleet.local.name, f"make changes on {join_names(call.hosts)}")
        pending = await anyio.to_thread.run_sync(self.approvals.take, id_)
        log.debug("approval %s…: %s by %s", id_[:6], "yes" if approve else "no", caller.name)
        rights = OnBehalf(_acting_name(pending.asker, caller.name), frozenset(pending.scopes) & caller.scopes)
        if pending.forwarded is not None:
            return await self.forwarding.decide(pending.forwarded, rights, approve=approve, request_id=request_id)
        if not approve:
            return Answer(response=CANCELLED, model=pending.model)
        own = caller.how == "local" and rights.scopes == caller.scopes
        question = _with_debug_log(Question(pending.question, on_behalf=None if own else rights))
        async with self._slot():
            reply = await execute_pending(self.fleet, question, pending.calls)
        reply.model = pending.model
        if reply.error is not None:
            raise reply.error
        return answer_of(reply, self.fleet.catalogue)

    def scope(self, tool: str) -> RequiredScope:
        """Scope that a tool needs: `exec` for unknown tools."""
        return scope_of(self.fleet, tool)

    @staticmethod
    def document_hooks(called: Callable[[WaitingCall], None], done: Callable[[DoneCall], None]) -> CallHooks:
        """Callbacks that report calls as documents of the API."""

        def on_call(tool: str, arguments: Mapping[str, Any], hosts: list[str]) -> None:
            called(WaitingCall(tool=tool, arguments=dict(arguments), hosts=hosts))

        return CallHooks(on_call, lambda result: done(DoneCall.model_validate(outcome.document(result))))

    async def hold(self, pending: PendingApproval) -> Approval:
        """Store changes until they are approved or denied.

        Raises:
            Busy, ConfigInvalid: they cannot be stored.
        """
        await anyio.to_thread.run_sync(self.approvals.save, pending)
        return Approval(
            id=pending.id, calls=[waiting_call(call) for call in pending.calls], expires_at=pending.expires_at
        )

    async def _hold_changes(self, reply: Reply, caller: ApiCaller) -> Waiting:
        permitted = [proposal for proposal in reply.waiting if self.scope(proposal.tool) in caller.scopes]
        if not permitted:
            # An approval runs with the rights of this caller at most, so no one could approve it.
            tool = reply.waiting[0].tool
            caller.require(self.scope(tool), f"`{tool}`")
        if any(proposal.asked_for for proposal in permitted):
            # One approval must not cover requested and unrequested changes together.
            reply.notes += [
                f"left out `{proposal.tool}`, which you did not ask for: {proposal.why}"
                for proposal in permitted
                if not proposal.asked_for
            ]
            permitted = [proposal for proposal in permitted if proposal.asked_for]
        calls = tuple([await pending_call(self.fleet, proposal, reply.notes) for proposal in permitted])
        pending = PendingApproval(
            id=new_id(),
            asker=caller.name,
            scopes=tuple(sorted(caller.scopes)),
            question=reply.question.text,
            calls=calls,
            expires_at=expiry(),
            model=reply.model,
        )
        return Waiting(**answer_of(reply, self.fleet.catalogue).model_dump(), approval=await self.hold(pending))

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Hold one of the slots for questions being answered.

        Raises:
            Busy: the queue is full, or no slot becomes free in time.
        """
        busy = Busy("this host is answering other questions", hint="try again in a minute")
        if self._slots.statistics().tasks_waiting >= MOST_QUEUED:
            raise busy
        borrower = object()
        try:
            with anyio.fail_after(QUEUE_SECONDS):
                await self._slots.acquire_on_behalf_of(borrower)
        except TimeoutError as error:
            raise busy from error
        try:
            yield
        finally:
            self._slots.release_on_behalf_of(borrower)


def answer_of(reply: Reply, tools: Mapping[str, ToolListing]) -> Answer:
    """A reply as an HTTP answer. `response` is complete on its own, for programs that read no other field."""
    failed = str(reply.error) if reply.error else ""
    response = report.with_lists(reply.run, tools, reply.answer) or failed
    notes = [*reply.notes, *([failed] if failed not in response else [])]
    return Answer.model_validate(
        {
            "response": response,
            "words": reply.answer if reply.answer != response else "",
            "calls": outcome.documents(reply.calls),
            "mode": reply.mode,
            "model": reply.model,
            "usage": reply.usage,
            "hosts": reply.hosts,
            "notes": notes,
            "error": reply.problem.as_dict() if reply.problem else None,
        }
    )


def _with_single_host_note(answer: Answer | Waiting, host: str) -> Answer | Waiting:
    """The answer with a note why it covers one host only."""
    note = f"only {host} was asked, because your token is for {host} only; `anvyl-mcp invite --relay` covers the fleet"
    return answer.model_copy(
        update={"response": f"{answer.response}\n({note}.)".strip(), "notes": [*answer.notes, note]}
    )


def _with_model_problem(error: AnvylError, notes: Sequence[str]) -> AnvylError:
    """The error; if the rules did not understand because no model answered, with the reason why."""
    why = next((note.partition(";")[0] for note in notes if note.startswith(NO_MODEL)), "")
    return (
        NotUnderstood(f"{error.message}; {why}", hint=error.hint) if why and isinstance(error, NotUnderstood) else error
    )


def _acting_name(asker: str, approver: str) -> str:
    """Name for policies and the audit log, in the form that both parse."""
    return asker if asker == approver else f"{asker} through {approver}"


async def approve_if_covered(proposal: Proposal) -> bool | None:
    """`"approve": true` covers changes that the question asks for and that do not give root on the host."""
    return True if proposal.covered else None


def _with_debug_log(question: Question) -> Question:
    """The question with hooks that also log each outcome, if debug logging is on."""
    if not log.isEnabledFor(logging.DEBUG):
        return question

    def log_outcome(result: Outcome) -> None:
        log.debug("%s on %s: %s in %.3f s", result.tool, result.host, result.error or "ok", result.seconds)
        question.on_outcome(result)

    log.debug("asked: %s", question.text)
    return replace(question, on_outcome=log_outcome)
