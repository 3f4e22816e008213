"""Forwards questions to the agents of other hosts, and falls back to their tools if the agent cannot answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol, TypeVar

import anyio
from pydantic import ValidationError

from anvyl_mcp.core.errors import AnvylError, InternalError, ModelUnavailable, NotUnderstood, Unreachable
from anvyl_mcp.orchestrator.api.endpoint import ApiCaller, require_relay
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
from anvyl_mcp.orchestrator.approvals import PendingApproval, PendingCall, RemoteApproval, expiry, new_id
from anvyl_mcp.peers import agents
from anvyl_mcp.peers.connection.json_api import NotAnvyl
from anvyl_mcp.peers.fleet.fleet import Fleet, OnBehalf
from anvyl_mcp.peers.hops import Hop, append_hop
from anvyl_mcp.peers.hosts.registry import Peer, unknown_host_error

log = logging.getLogger(__name__)

MOST_CONCURRENT = 32
NO_AGENT_STATUSES = (404, 405, 501)
OTHER_VERSION = "is it the same version of Anvyl? See anvyl hosts check"


class LocalAgent(Protocol):
    """What forwarding needs of this host's own agent; see `service.AgentService`."""

    fleet: Fleet
    own_hop: Hop

    async def process(
        self,
        text: str,
        caller: ApiCaller,
        *,
        approve: bool,
        path: tuple[Hop, ...],
        default_local: bool,
        single_host: bool,
    ) -> Answer | Waiting:
        """Answer a question about this host."""

    async def answer(self, text: str, caller: ApiCaller, *, approve: bool, host: str) -> Answer | Waiting:
        """Answer a question about another host with that host's tools."""

    async def hold(self, pending: PendingApproval) -> Approval:
        """Store changes until they are approved or denied."""


class Forwarding:
    """Sends questions and approvals to the agents of other hosts."""

    def __init__(self, agent: LocalAgent) -> None:
        self._agent = agent

    async def ask(
        self,
        host_id: str,
        query: str,
        caller: ApiCaller,
        *,
        approve: bool = False,
        path: tuple[Hop, ...] = (),
        request_id: str = "",
        single_host: bool = False,
    ) -> RemoteAnswer | RemoteWaiting:
        """Send a question to a host's agent. Changes that wait there can be approved here.

        `single_host`: that host must answer without asking others.

        Raises:
            Denied: the caller's token is for this host only.
            UnknownHost: no host has that name.
            Unreachable, Timeout: the host does not answer, or takes too long.
            Conflict: the question was forwarded in a circle.
            AnvylError: the error of the other agent.
        """
        fleet, name = self._agent.fleet, host_id.strip().lower()
        if name != fleet.local.name:
            require_relay(caller, fleet.local.name, "ask other hosts")
        if (peer := fleet.peers.get(name)) is None:
            raise unknown_host_error(host_id, fleet.hosts)
        if name == fleet.local.name:
            answer = await self._agent.process(
                query, caller, approve=approve, path=path, default_local=True, single_host=single_host
            )
            return _as_remote(name, answer)
        hops = append_hop(path, self._agent.own_hop)
        sender = agents.Sender(OnBehalf(caller.name, caller.scopes), hops, request_id, single_host)
        try:
            return await self._ask_agent(peer, query, sender, caller, approve=approve)
        except AnvylError as error:
            if not _can_fall_back_to_tools(error, approve=approve):
                raise _with_host(name, error) from error
            return await self._answer_with_tools(name, query, caller, error, approve=approve)

    async def broadcast(
        self,
        message: str,
        caller: ApiCaller,
        *,
        approve: bool = False,
        path: tuple[Hop, ...] = (),
        request_id: str = "",
    ) -> Results:
        """Ask the agents of all hosts, including this one, concurrently. A failure of one host is its result.

        Raises:
            Denied: the caller's token is for this host only.
            Conflict: the question was forwarded in a circle.
        """
        require_relay(caller, self._agent.fleet.local.name, "ask other hosts")
        append_hop(path, self._agent.own_hop)
        names = self._agent.fleet.hosts
        results: dict[str, Result] = {}
        limiter = anyio.CapacityLimiter(MOST_CONCURRENT)

        async def one(name: str) -> None:
            try:
                async with limiter:
                    answer = await self.ask(
                        name, message, caller, approve=approve, path=path, request_id=request_id, single_host=True
                    )
            except AnvylError as error:
                results[name] = Result(host_id=name, result=str(error), error=ErrorBody(**error.as_dict()))
                return
            approval = answer.approval if isinstance(answer, RemoteWaiting) else None
            results[name] = Result(
                host_id=name, result=answer.response, via=answer.via, error=answer.error, approval=approval
            )

        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(one, name)
        return Results(results=[results[name] for name in names])

    async def decide(
        self, forwarded: RemoteApproval, rights: OnBehalf, *, approve: bool, request_id: str = ""
    ) -> RemoteAnswer:
        """Approve or deny changes that wait on another host.

        Raises:
            AnvylError: that host does not answer, or refuses.
        """
        fleet = self._agent.fleet
        peer = fleet.peers.get(forwarded.host)
        if peer is None:
            raise unknown_host_error(forwarded.host, fleet.hosts)
        sender = agents.Sender(rights, (self._agent.own_hop,), request_id)
        try:
            payload = await agents.decide(peer, forwarded.id, sender, approve=approve)
        except AnvylError as error:
            raise _with_host(peer.name, error) from error
        return _parse_answer(RemoteAnswer, payload, peer)

    async def _ask_agent(
        self, peer: Peer, query: str, sender: agents.Sender, caller: ApiCaller, *, approve: bool
    ) -> RemoteAnswer | RemoteWaiting:
        log.debug("asking the agent on %s for %s", peer.name, caller.name)
        payload = await agents.ask(peer, query, sender, approve=approve)
        if payload["status_code"] != 202:
            return _parse_answer(RemoteAnswer, payload, peer)
        waiting = _parse_answer(RemoteWaiting, payload, peer)
        return waiting.model_copy(update={"approval": await self._hold_copy(peer, query, caller, waiting)})

    async def _hold_copy(self, peer: Peer, query: str, caller: ApiCaller, waiting: RemoteWaiting) -> Approval:
        """Hold a remote approval here under an id of our own, which expires no later than the remote one."""
        calls = tuple(
            PendingCall(
                call.tool,
                call.arguments,
                tuple(call.hosts),
                untrusted=call.untrusted,
                why=call.why,
                details=call.details,
            )
            for call in waiting.approval.calls
        )
        pending = PendingApproval(
            id=new_id(),
            asker=caller.name,
            scopes=tuple(sorted(caller.scopes)),
            question=query,
            calls=calls,
            expires_at=_earlier(waiting.approval.expires_at, expiry()),
            model=waiting.model,
            forwarded=RemoteApproval(peer.name, waiting.approval.id),
        )
        return await self._agent.hold(pending)

    async def _answer_with_tools(
        self, name: str, query: str, caller: ApiCaller, agent_error: AnvylError, *, approve: bool
    ) -> RemoteAnswer | RemoteWaiting:
        """Answer from here with that host's tools, and note it in the answer."""
        reason = agent_error.message
        log.debug("the agent on %s cannot answer (%s); its tools are used from here", name, agent_error)
        try:
            local_answer = await self._agent.answer(query, caller, approve=approve, host=name)
        except (NotUnderstood, ModelUnavailable) as error:
            same_kind = isinstance(agent_error, NotUnderstood | ModelUnavailable)
            raise _with_host(name, agent_error if same_kind else error) from error
        if local_answer.calls and not any(call.ok for call in local_answer.calls):
            raise Unreachable(
                f"{name}: its agent could not answer ({reason}), nor its tools: {local_answer.calls[-1].error}",
                hint=agent_error.hint,
            )
        answer = _as_remote(name, local_answer)
        note = f"the agent on {name} could not answer ({reason}), so its tools were used from here"
        return answer.model_copy(
            update={
                "response": f"{answer.response}\n({note}.)",
                "notes": [*answer.notes, note],
                "via": "tools",
            }
        )


def _can_fall_back_to_tools(error: AnvylError, *, approve: bool) -> bool:
    """Whether the host answers and its agent did certainly nothing, so that no change can be made twice."""
    if isinstance(error, NotUnderstood | ModelUnavailable):
        return True
    if isinstance(error, NotAnvyl):
        return error.status in NO_AGENT_STATUSES
    return isinstance(error, InternalError) and not approve


def _as_remote(name: str, answer: Answer | Waiting) -> RemoteAnswer | RemoteWaiting:
    fields = {**answer.model_dump(), "host_id": name}
    return RemoteWaiting(**fields) if isinstance(answer, Waiting) else RemoteAnswer(**fields)


def _with_host(name: str, error: AnvylError) -> AnvylError:
    """The error with the host's name in its message."""
    kind = Unreachable if isinstance(error, NotAnvyl) else type(error)
    return kind(f"{name}: {error.message}", hint=error.hint)


def _earlier(remote: datetime, own: datetime) -> datetime:
    return min(remote, own) if remote.tzinfo else own


RemoteModel = TypeVar("RemoteModel", bound=RemoteAnswer)


def _parse_answer(model: type[RemoteModel], payload: Mapping[str, Any], peer: Peer) -> RemoteModel:
    """Parse the answer of another host's agent.

    Raises:
        Unreachable: it does not match the schema.
    """
    fields = {key: value for key, value in payload.items() if key != "via"}
    try:
        return model.model_validate({**fields, "host_id": peer.name})
    except ValidationError as error:
        raise Unreachable(f"{peer.name}: its answer does not match the expected schema", hint=OTHER_VERSION) from error
