"""Questions for the agents of other hosts: sent on, answered there, and answered from here where only tools can."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol, TypeVar

import anyio
from pydantic import ValidationError

from anvyl_mcp.core.errors import AnvylError, InternalError, ModelUnavailable, NotUnderstood, Unreachable
from anvyl_mcp.orchestrator.api.endpoint import Asking, require_relay
from anvyl_mcp.orchestrator.api.schemas import (
    Answer,
    Approval,
    ErrorBody,
    RemoteAnswer,
    RemoteWaiting,
    Result,
    Results,
    Waiting,
)
from anvyl_mcp.orchestrator.approvals import Forwarded, Held, HeldCall, expiry, new_id
from anvyl_mcp.peers import agents
from anvyl_mcp.peers.connection.json_api import NotAnvyl
from anvyl_mcp.peers.fleet.fleet import Fleet, OnBehalf
from anvyl_mcp.peers.hops import Hop, append_hop
from anvyl_mcp.peers.hosts.registry import Peer, unknown_host_error

log = logging.getLogger(__name__)

AT_ONCE = 32
NO_AGENT = (404, 405, 501)
OTHER_VERSION = "is it the same version of Anvyl? See anvyl hosts check"


class LocalAgent(Protocol):
    """This host's own agent, as far as forwarding needs it; see `desk.Desk`."""

    fleet: Fleet
    here: Hop

    async def process(
        self, text: str, asking: Asking, *, approve: bool, path: tuple[Hop, ...], at_home: bool, alone: bool
    ) -> Answer | Waiting:
        """Answer a question about this host."""

    async def answer(self, text: str, asking: Asking, *, approve: bool, host: str) -> Answer | Waiting:
        """Answer a question about another host with that host's tools."""

    async def hold(self, held: Held) -> Approval:
        """Keep changes until a person decides."""


class Others:
    """The agents of the fleet's other hosts, as this host reaches them."""

    def __init__(self, agent: LocalAgent) -> None:
        self._agent = agent

    async def ask(
        self,
        host_id: str,
        query: str,
        asking: Asking,
        *,
        approve: bool = False,
        path: tuple[Hop, ...] = (),
        request_id: str = "",
        alone: bool = False,
    ) -> RemoteAnswer | RemoteWaiting:
        """Have a host's own agent answer; what waits there can be approved here. `alone`: for itself only.

        Raises:
            Denied: the caller's token is for this host alone.
            UnknownHost: there is none of that name.
            Unreachable, Timeout: it does not answer, or takes too long.
            Conflict: the question went in a circle.
            AnvylError: its own error.
        """
        fleet, name = self._agent.fleet, host_id.strip().lower()
        if name != fleet.local.name:
            require_relay(asking, fleet.local.name, "ask other hosts")
        if (peer := fleet.peers.get(name)) is None:
            raise unknown_host_error(host_id, fleet.hosts)
        if name == fleet.local.name:
            done = await self._agent.process(query, asking, approve=approve, path=path, at_home=True, alone=alone)
            return _from(name, done)
        way = append_hop(path, self._agent.here)
        sender = agents.Sender(OnBehalf(asking.name, asking.scopes), way, request_id, alone)
        try:
            return await self._sent(peer, query, sender, asking, approve=approve)
        except AnvylError as error:
            if not _tools_may_do(error, approve=approve):
                raise _of(name, error) from error
            return await self._by_tools(name, query, asking, error, approve=approve)

    async def broadcast(
        self,
        message: str,
        asking: Asking,
        *,
        approve: bool = False,
        path: tuple[Hop, ...] = (),
        request_id: str = "",
    ) -> Results:
        """Have the agents of all hosts answer at once, each for itself, this one's too; one's failure is only its own.

        Raises:
            Denied: the caller's token is for this host alone.
            Conflict: the question went in a circle.
        """
        require_relay(asking, self._agent.fleet.local.name, "ask other hosts")
        append_hop(path, self._agent.here)
        names = self._agent.fleet.hosts
        results: dict[str, Result] = {}
        limiter = anyio.CapacityLimiter(AT_ONCE)

        async def one(name: str) -> None:
            try:
                async with limiter:
                    done = await self.ask(
                        name, message, asking, approve=approve, path=path, request_id=request_id, alone=True
                    )
            except AnvylError as error:
                results[name] = Result(host_id=name, result=str(error), error=ErrorBody(**error.as_dict()))
                return
            approval = done.approval if isinstance(done, RemoteWaiting) else None
            results[name] = Result(
                host_id=name, result=done.response, via=done.via, error=done.error, approval=approval
            )

        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(one, name)
        return Results(results=[results[name] for name in names])

    async def decide(
        self, forwarded: Forwarded, rights: OnBehalf, *, approve: bool, request_id: str = ""
    ) -> RemoteAnswer:
        """Give a person's answer to what waits on another host.

        Raises:
            AnvylError: it does not answer, or refuses.
        """
        fleet = self._agent.fleet
        peer = fleet.peers.get(forwarded.host)
        if peer is None:
            raise unknown_host_error(forwarded.host, fleet.hosts)
        sender = agents.Sender(rights, (self._agent.here,), request_id)
        try:
            told = await agents.decide(peer, forwarded.id, sender, approve=approve)
        except AnvylError as error:
            raise _of(peer.name, error) from error
        return _read(RemoteAnswer, {**told, "host_id": peer.name}, peer)

    async def _sent(
        self, peer: Peer, query: str, sender: agents.Sender, asking: Asking, *, approve: bool
    ) -> RemoteAnswer | RemoteWaiting:
        log.debug("asking the agent on %s for %s", peer.name, asking.name)
        told = {**await agents.ask(peer, query, sender, approve=approve), "host_id": peer.name}
        if told["status_code"] != 202:
            return _read(RemoteAnswer, told, peer)
        waiting = _read(RemoteWaiting, told, peer)
        return waiting.model_copy(update={"approval": await self._kept(peer, query, asking, waiting)})

    async def _kept(self, peer: Peer, query: str, asking: Asking, waiting: RemoteWaiting) -> Approval:
        """What waits there waits here too, under an id of ours, and no longer than there."""
        calls = tuple(
            HeldCall(
                call.tool,
                call.arguments,
                tuple(call.hosts),
                untrusted=call.untrusted,
                why=call.why,
                details=call.details,
            )
            for call in waiting.approval.calls
        )
        held = Held(
            id=new_id(),
            asker=asking.name,
            scopes=tuple(sorted(asking.scopes)),
            question=query,
            calls=calls,
            expires_at=_sooner(waiting.approval.expires_at, expiry()),
            model=waiting.model,
            forwarded=Forwarded(peer.name, waiting.approval.id),
        )
        return await self._agent.hold(held)

    async def _by_tools(
        self, name: str, query: str, asking: Asking, why: AnvylError, *, approve: bool
    ) -> RemoteAnswer | RemoteWaiting:
        """The answer from here, with that host's tools; it says so."""
        log.debug("the agent on %s cannot answer (%s); its tools are used from here", name, why)
        try:
            done = await self._agent.answer(query, asking, approve=approve, host=name)
        except (NotUnderstood, ModelUnavailable) as error:
            raise _of(name, why if isinstance(why, NotUnderstood | ModelUnavailable) else error) from error
        if done.calls and not any(call.ok for call in done.calls):
            raise Unreachable(
                f"{name}: its agent could not answer ({why.message}), nor its tools: {done.calls[-1].error}",
                hint=why.hint,
            )
        answer = _from(name, done)
        note = f"the agent on {name} could not answer ({why.message}), so its tools were used from here"
        return answer.model_copy(
            update={
                "response": f"{answer.response}\n({note}.)",
                "notes": [*answer.notes, note],
                "via": "tools",
            }
        )


def _tools_may_do(error: AnvylError, *, approve: bool) -> bool:
    """Whether the agent there did nothing, and its host is there: a change must not be made twice."""
    if isinstance(error, NotUnderstood | ModelUnavailable):
        return True
    if isinstance(error, NotAnvyl):
        return error.status in NO_AGENT
    return isinstance(error, InternalError) and not approve


def _from(name: str, done: Answer | Waiting) -> RemoteAnswer | RemoteWaiting:
    fields = {**done.model_dump(), "host_id": name}
    return RemoteWaiting(**fields) if isinstance(done, Waiting) else RemoteAnswer(**fields)


def _of(name: str, error: AnvylError) -> AnvylError:
    """A host's error, with its name."""
    kind = Unreachable if isinstance(error, NotAnvyl) else type(error)
    return kind(f"{name}: {error.message}", hint=error.hint)


def _sooner(told: datetime, ours: datetime) -> datetime:
    return min(told, ours) if told.tzinfo else ours


Document = TypeVar("Document", bound=RemoteAnswer)


def _read(kind: type[Document], told: Mapping[str, Any], peer: Peer) -> Document:
    """Another host's answer, as far as it has the promised form.

    Raises:
        Unreachable: it has another one.
    """
    try:
        return kind.model_validate({key: value for key, value in told.items() if key != "via"})
    except ValidationError as error:
        raise Unreachable(f"{peer.name}: its answer is not of the promised form", hint=OTHER_VERSION) from error
