"""Declares endpoints of the agent API: one declaration in `endpoints/` gives the route, its OpenAPI entry and its docs.

    class Greeting(Document):
        name: str

    @endpoint("POST", "/agent/greet", body=Greeting, responses={200: Greeted}, example={"name": "Ada"})
    async def greet(body: Greeting, request: AgentRequest) -> Greeted:
        \"\"\"Say hello.\"\"\"

Nothing heavy is imported here or in `endpoints/`: `HostContext.agent_service` loads the agent on first use.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import anyio
from pydantic import BaseModel

from anvyl_mcp.core.errors import Denied
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.hops import Hop
from anvyl_mcp.peers.watch.fleet_view import Nudge

if TYPE_CHECKING:
    from anvyl_mcp.orchestrator.api.schemas import (
        Answer,
        DoneCall,
        PendingChange,
        RemoteAnswer,
        RemoteWaiting,
        Results,
        Waiting,
        WaitingCall,
    )
    from anvyl_mcp.peers.fleet.fleet import Outcome

RequiredScope = Literal["read", "operate", "exec"]
SendEvent = Callable[[str, BaseModel], None]
"""Sends one server-sent event: its name and its body."""
EndpointHandler = Callable[..., Awaitable[BaseModel | None]]


class ApiCaller(Protocol):
    """The caller of the API. Everything done for a request is limited to its rights."""

    @property
    def name(self) -> str:
        """Name for the audit log."""

    @property
    def scopes(self) -> frozenset[str]:
        """Subset of `read`, `operate` and `exec`."""

    @property
    def how(self) -> str:
        """How the caller was authenticated: `local`, `loopback`, or the kind of credential."""

    @property
    def relay(self) -> bool:
        """Whether this host may ask other hosts for the caller. A token without the relay mark is for one host."""

    def require(self, scope: RequiredScope, what: str) -> None:
        """Check that the caller has the scope that `what` needs.

        Raises:
            Denied: the scope is missing.
        """


@dataclass(frozen=True)
class CallHooks:
    """Callbacks for the start and the end of each call made for a question."""

    on_call: Callable[[str, Mapping[str, Any], list[str]], None] = lambda tool, arguments, hosts: None
    on_outcome: Callable[[Outcome], None] = lambda outcome: None


class Forwarder(Protocol):
    """Sends questions to the agents of other hosts; see `forwarding.Forwarding`."""

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
        """Send a question to one host's agent."""

    async def broadcast(
        self,
        message: str,
        caller: ApiCaller,
        *,
        approve: bool = False,
        path: tuple[Hop, ...] = (),
        request_id: str = "",
    ) -> Results:
        """Send a question to the agents of all hosts."""


class QuestionService(Protocol):
    """Answers questions and executes approved changes; see `service.AgentService`."""

    @property
    def forwarding(self) -> Forwarder:
        """Access to the agents of other hosts."""

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
        """Answer one question; changes wait for approval unless `approve`."""

    async def decide(self, id_: str, caller: ApiCaller, *, approve: bool, request_id: str = "") -> Answer:
        """Approve or deny pending changes."""

    @staticmethod
    def document_hooks(called: Callable[[WaitingCall], None], done: Callable[[DoneCall], None]) -> CallHooks:
        """Callbacks that report calls as documents of the API."""


class CallService(Protocol):
    """Calls tools without a question; see `direct_call.DirectCalls`."""

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        host: str,
        caller: ApiCaller,
        *,
        approve: bool = False,
        single_host: bool = False,
    ) -> Answer | Waiting:
        """Call one tool; a change waits for approval unless `approve` covers it."""

    async def pending(self, caller: ApiCaller) -> list[PendingChange]:
        """List the changes that wait for approval and that the caller may approve."""


@dataclass(frozen=True)
class HostContext:
    """What all endpoints of a host need: its fleet, settings, address and agent."""

    fleet: Fleet
    settings: Settings
    base_url: Callable[[], str]
    agent_service: Callable[[], Awaitable[QuestionService]]
    calls: CallService
    may_continue: Callable[[Any], bool] = lambda caller: True
    """Whether the credential of an `ApiCaller` is still valid, for responses that go on."""
    nudge: Nudge = field(default_factory=Nudge)
    """Wakes the live views after a change."""
    closing: anyio.Event = field(default_factory=anyio.Event)
    """Set when the server stops."""


@dataclass(frozen=True)
class AgentRequest:
    """One request: its caller and the hosts it was forwarded through. `single_host`: it concerns this host only."""

    context: HostContext
    caller: ApiCaller
    path: tuple[Hop, ...] = ()
    request_id: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    single_host: bool = False


def require_relay(caller: ApiCaller, host: str, what: str) -> None:
    """Check that this host, named `host`, may ask other hosts for the caller.

    Raises:
        Denied: the caller's token is for this host only.
    """
    if not caller.relay:
        raise Denied(
            f"the token of `{caller.name}` is valid for {host} only, so {host} does not {what} for it",
            hint=f"for a token that lets {host} ask other hosts: run `anvyl-mcp invite --relay` on {host}, then here "
            "`anvyl hosts add`",
        )


@dataclass(frozen=True)
class Endpoint:
    """One endpoint: method and path, required scope, request body and responses."""

    method: str
    path: str
    summary: str
    handler: EndpointHandler
    scope: RequiredScope
    body: type[BaseModel] | None
    responses: Mapping[int, Any]
    errors: tuple[int, ...]
    example: Mapping[str, Any] | None
    response_examples: Mapping[int, Any]
    is_question: bool
    events: Mapping[str, Any]

    @property
    def streams(self) -> bool:
        """Whether the response is a stream of server-sent events."""
        return bool(self.events)

    @property
    def name(self) -> str:
        """Name of the handler, unique among the endpoints."""
        return self.handler.__name__

    def status(self, answer: BaseModel) -> int:
        """HTTP status of a response."""
        for status, kind in self.responses.items():
            if type(answer) in (get_args(kind) or (kind,)):
                return status
        raise TypeError(f"{self.name} answered with {type(answer).__name__}, which it does not declare")


def endpoint(
    method: str,
    path: str,
    *,
    responses: Mapping[int, Any],
    body: type[BaseModel] | None = None,
    scope: RequiredScope = "read",
    errors: tuple[int, ...] = (),
    example: Mapping[str, Any] | None = None,
    response_examples: Mapping[int, Any] | None = None,
    is_question: bool = False,
    events: Mapping[str, Any] | None = None,
) -> Callable[[EndpointHandler], Endpoint]:
    """Declare an endpoint. The handler's docstring is its description.

    `example` and `response_examples`: a request body and the responses to it. `is_question`: requests count
    against the question limit of a remote caller. `events`: names and models of the server-sent events that the handler
    sends with a `SendEvent`, its last argument; the last one is the example.
    """

    def decorator(handler: EndpointHandler) -> Endpoint:
        summary = " ".join((handler.__doc__ or "").split())
        return Endpoint(
            method,
            path,
            summary,
            handler,
            scope,
            body,
            responses,
            errors,
            example,
            response_examples or {},
            is_question=is_question,
            events=events or {},
        )

    return decorator


@cache
def load_endpoints() -> tuple[Endpoint, ...]:
    """All endpoints declared in the package `endpoints`, sorted by path."""
    package = importlib.import_module("anvyl_mcp.orchestrator.api.endpoints")
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)
    ]
    declared = [value for module in modules for value in vars(module).values() if isinstance(value, Endpoint)]
    return tuple(sorted(declared, key=lambda endpoint: (endpoint.path, endpoint.method)))
