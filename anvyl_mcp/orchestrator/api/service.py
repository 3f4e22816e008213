"""Where questions from elsewhere are answered, with the rights of whoever asks, and changes wait for a yes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import anyio

from anvyl_mcp.core.errors import Busy, InvalidInput
from anvyl_mcp.core.text import join_names
from anvyl_mcp.orchestrator.api.endpoint import Asking, Scope, Watch, require_relay
from anvyl_mcp.orchestrator.api.forwarding import Others
from anvyl_mcp.orchestrator.api.schemas import Answer, Approval, DoneCall, Waiting, WaitingCall
from anvyl_mcp.orchestrator.approvals import Approvals, Held, HeldCall, expiry, new_id
from anvyl_mcp.orchestrator.ask import report
from anvyl_mcp.orchestrator.ask.agent import Assistant, nobody
from anvyl_mcp.orchestrator.ask.execute_approved import carry_out, held_call
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.orchestrator.rules.results.answers import CANCELLED
from anvyl_mcp.peers.changes import outcome as verdict
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet, OnBehalf, Outcome
from anvyl_mcp.peers.fleet.single_host import SingleHostFleet
from anvyl_mcp.peers.fleet.targets import hosts_by_name
from anvyl_mcp.peers.hops import Hop, append_hop

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Questions that are worked on; more wait, so that neither a model nor an engine gets all of them at once."""
MOST_WAITING = 256
LONGEST_WAIT = 60.0


class Desk:
    """Takes questions and the answers to what they propose."""

    def __init__(self, assistant: Assistant, fleet: Fleet, approvals: Approvals, here: Hop) -> None:
        self.fleet = fleet
        self.approvals = approvals
        self.here = here
        self.others = Others(self)
        self._assistant = assistant
        self._alone = SingleHostFleet(fleet)
        self._for_itself = assistant.on(self._alone)
        self._room = anyio.CapacityLimiter(AT_ONCE)

    async def process(
        self,
        text: str,
        asking: Asking,
        *,
        approve: bool = False,
        path: tuple[Hop, ...] = (),
        at_home: bool = False,
        alone: bool = False,
        watch: Watch | None = None,
    ) -> Answer | Waiting:
        """Answer one question; changes wait, or with `approve` are done unless untrusted text was read before.

        A question that another agent sent on, along `path`, is about this host unless it names others; so is one
        that is asked `at_home`. One that comes `alone`, or with a token for this host only, is about no other.

        Raises:
            Denied: it names others all the same.
            Conflict: this host is on the path already.
            AnvylError: there is no answer.
        """
        append_hop(path, self.here)
        home = self.fleet.local.name if path or at_home else ""
        if asking.relay and not alone:
            return await self.answer(text, asking, approve=approve, home=home, watch=watch)
        await self._require_about_here(text, asking)
        answer = await self.answer(
            text, asking, approve=approve, home=self.fleet.local.name, watch=watch, assistant=self._for_itself
        )
        expected = asking.relay or path or at_home or not self._alone.others or self._alone.is_named_in(text)
        return answer if expected else _only_here(answer, self.fleet.local.name)

    async def _require_about_here(self, text: str, asking: Asking) -> None:
        """Return if a question names no other host than this, or only as the name of a container.

        Raises:
            Denied: the caller's token is for this host alone.
            InvalidInput: it was sent to many hosts, each of which answers for itself.
        """
        named = self._alone.others_in(text)
        if not named or set(named) <= set(await hosts_by_name(self._alone, "container")):
            return
        here = self.fleet.local.name
        require_relay(asking, here, f"ask {join_names(named)}")
        raise InvalidInput(
            f"the question names {join_names(named)}, and of a broadcast each host answers for itself",
            hint=f"ask that host alone: anvyl agent query-remote {named[0]} …",
        )

    async def answer(
        self,
        text: str,
        asking: Asking,
        *,
        approve: bool = False,
        home: str = "",
        host: str = "",
        watch: Watch | None = None,
        assistant: Assistant | None = None,
    ) -> Answer | Waiting:
        """Answer one question from here, by another `assistant` where it may not see the whole fleet.

        Raises:
            AnvylError: there is no answer.
        """
        # Whoever started this process asks for nobody else.
        rights = None if asking.how == "local" else OnBehalf(asking.name, asking.scopes)
        watch = watch or Watch()
        question = _logged(
            Question(
                text,
                host=host,
                home=home,
                on_behalf=rights,
                on_call=watch.on_call,
                on_outcome=watch.on_outcome,
            )
        )
        async with self._place():
            reply = await (assistant or self._assistant).ask(question, decide=_trusting if approve else nobody)
        if reply.error is not None and not reply.calls:
            log.debug("no answer: %s", reply.error)
            raise reply.error
        log.debug("answered by %s %s in %.3f s", reply.mode, reply.model, reply.seconds)
        if not reply.waiting:
            return answered(reply, self.fleet.catalogue)
        return await self._waiting(reply, asking)

    async def decide(self, id_: str, asking: Asking, *, approve: bool, request_id: str = "") -> Answer:
        """Have done what waits under an approval, here or where it was sent on to, or end it; it is used up either way.

        Raises:
            Denied: whoever answers may not do it either; it goes on waiting.
            NotFound, Gone: nothing waits there, or not any more.
            Conflict: every container is another one by now.
            AnvylError: the host where it waits does not answer.
        """
        held = await anyio.to_thread.run_sync(self.approvals.look, id_)
        for call in held.calls if approve else ():
            asking.require(self.scope(call.tool), f"approving `{call.tool}`")
            if held.forwarded is not None or set(call.hosts) - {self.fleet.local.name}:
                require_relay(asking, self.fleet.local.name, f"make changes on {join_names(call.hosts)}")
        held = await anyio.to_thread.run_sync(self.approvals.take, id_)
        log.debug("approval %s…: %s by %s", id_[:6], "yes" if approve else "no", asking.name)
        rights = OnBehalf(_both(held.asker, asking.name), frozenset(held.scopes) & asking.scopes)
        if held.forwarded is not None:
            return await self.others.decide(held.forwarded, rights, approve=approve, request_id=request_id)
        if not approve:
            return Answer(response=CANCELLED, model=held.model)
        mine = asking.how == "local" and rights.scopes == asking.scopes
        question = _logged(Question(held.question, on_behalf=None if mine else rights))
        async with self._place():
            reply = await carry_out(self.fleet, question, held.calls)
        reply.model = held.model
        if reply.error is not None:
            raise reply.error
        return answered(reply, self.fleet.catalogue)

    def scope(self, tool: str) -> Scope:
        """The right that a tool needs; what we do not know might do anything."""
        listing = self.fleet.catalogue.get(tool)
        return cast("Scope", listing.scope) if listing else "exec"

    @staticmethod
    def watch(called: Callable[[WaitingCall], None], done: Callable[[DoneCall], None]) -> Watch:
        """Tell of calls in the form that HTTP has for them."""

        def on_call(tool: str, arguments: Mapping[str, Any], hosts: list[str]) -> None:
            called(WaitingCall(tool=tool, arguments=dict(arguments), hosts=hosts))

        return Watch(on_call, lambda outcome: done(DoneCall.model_validate(verdict.document(outcome))))

    async def hold(self, held: Held) -> Approval:
        """Keep changes for a person's answer.

        Raises:
            Busy, ConfigInvalid: they cannot be kept.
        """
        await anyio.to_thread.run_sync(self.approvals.keep, held)
        return Approval(id=held.id, calls=[waiting_call(call) for call in held.calls], expires_at=held.expires_at)

    async def _waiting(self, reply: Reply, asking: Asking) -> Waiting:
        may = [one for one in reply.waiting if self.scope(one.tool) in asking.scopes]
        if not may:
            # Nobody could ever approve it: it would be done with no more rights than these.
            tool = reply.waiting[0].tool
            asking.require(self.scope(tool), f"`{tool}`")
        if any(one.asked_for for one in may):
            # One yes must not cover what was asked for together with what was not.
            reply.notes += [
                f"left out `{one.tool}`, which you did not ask for: {one.why}" for one in may if not one.asked_for
            ]
            may = [one for one in may if one.asked_for]
        calls = tuple([await held_call(self.fleet, proposal, reply.notes) for proposal in may])
        held = Held(
            id=new_id(),
            asker=asking.name,
            scopes=tuple(sorted(asking.scopes)),
            question=reply.question.text,
            calls=calls,
            expires_at=expiry(),
            model=reply.model,
        )
        return Waiting(**answered(reply, self.fleet.catalogue).model_dump(), approval=await self.hold(held))

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Room to work on one question.

        Raises:
            Busy: too many wait already, or none of those under way comes to an end.
        """
        busy = Busy("this host is answering other questions", hint="try again in a while")
        if self._room.statistics().tasks_waiting >= MOST_WAITING:
            raise busy
        borrower = object()
        try:
            with anyio.fail_after(LONGEST_WAIT):
                await self._room.acquire_on_behalf_of(borrower)
        except TimeoutError as error:
            raise busy from error
        try:
            yield
        finally:
            self._room.release_on_behalf_of(borrower)


def answered(reply: Reply, tools: Mapping[str, ToolListing]) -> Answer:
    """A reply as HTTP has it: its words hold everything, for programs that read nothing else."""
    failed = str(reply.error) if reply.error else ""
    response = report.whole(reply.run, tools, reply.answer) or failed
    notes = [*reply.notes, *([failed] if failed not in response else [])]
    return Answer.model_validate(
        {
            "response": response,
            "calls": verdict.documents(reply.calls),
            "mode": reply.mode,
            "model": reply.model,
            "usage": reply.usage,
            "hosts": reply.hosts,
            "notes": notes,
            "error": reply.problem.as_dict() if reply.problem else None,
        }
    )


def _only_here(answer: Answer | Waiting, here: str) -> Answer | Waiting:
    """The answer, with the reason why it is about one host."""
    note = (
        f"only {here} was asked: your token is for it alone; `anvyl-mcp invite --relay` gives one that reaches further"
    )
    return answer.model_copy(
        update={"response": f"{answer.response}\n({note}.)".strip(), "notes": [*answer.notes, note]}
    )


def waiting_call(call: HeldCall) -> WaitingCall:
    """What a person reads before a yes."""
    return WaitingCall(
        tool=call.tool,
        arguments=dict(call.arguments),
        hosts=list(call.hosts),
        untrusted=call.untrusted,
        details=list(call.details),
        why=call.why,
    )


def _both(asker: str, approver: str) -> str:
    """For policies and the audit log, which know who acts for whom by these words."""
    return asker if asker == approver else f"{asker} through {approver}"


async def _trusting(proposal: Proposal) -> bool | None:
    """`"approve": true` covers what the person's own words ask for and is not as good as root."""
    return True if proposal.covered else None


def _logged(question: Question) -> Question:
    """The question with each outcome logged as well, if debug messages are."""
    if not log.isEnabledFor(logging.DEBUG):
        return question

    def note(outcome: Outcome) -> None:
        log.debug("%s on %s: %s in %.3f s", outcome.tool, outcome.host, outcome.error or "ok", outcome.seconds)
        question.on_outcome(outcome)

    log.debug("asked: %s", question.text)
    return replace(question, on_outcome=note)
