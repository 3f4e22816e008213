"""An endpoint of the agent API: declared once, in one file of `endpoints/`, and served, described and documented by it.

    class Greeting(Document):
        name: str

    @endpoint("POST", "/agent/greet", takes=Greeting, answers={200: Greeted}, example={"name": "Ada"})
    async def greet(body: Greeting, visit: Visit) -> Greeted:
        \"\"\"Say hello.\"\"\"

Nothing heavy is imported here or in `endpoints/`: what answers questions is behind `Visit.desk`, loaded when asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from pydantic import BaseModel

from anvyl_mcp.core.errors import Denied
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.hops import Hop

if TYPE_CHECKING:
    from anvyl_mcp.orchestrator.api.schemas import (
        Answer,
        DoneCall,
        RemoteAnswer,
        RemoteWaiting,
        Results,
        Waiting,
        WaitingCall,
    )
    from anvyl_mcp.peers.fleet.fleet import Outcome

Scope = Literal["read", "operate", "exec"]
Tell = Callable[[str, BaseModel], None]
"""Send one event to whoever listens to a stream: its name and what it holds."""
Handler = Callable[..., Awaitable[BaseModel | None]]


class Asking(Protocol):
    """Who asks: what is done for an answer is done with no more rights than these."""

    @property
    def name(self) -> str:
        """For the audit log."""

    @property
    def scopes(self) -> frozenset[str]:
        """Of `read`, `operate` and `exec`."""

    @property
    def how(self) -> str:
        """Where the call comes from: `local`, `loopback`, or by what it proved itself."""

    @property
    def relay(self) -> bool:
        """Whether this host asks others for the caller: a token is for the host that gave it, unless it is marked."""

    def require(self, scope: Scope, what: str) -> None:
        """Return if the caller has a right that `what` needs.

        Raises:
            Denied: the right is missing.
        """


@dataclass(frozen=True)
class Watch:
    """Callbacks for each call of a question, as it begins and as it ends."""

    on_call: Callable[[str, Mapping[str, Any], list[str]], None] = lambda tool, arguments, hosts: None
    on_outcome: Callable[[Outcome], None] = lambda outcome: None


class Forwarder(Protocol):
    """Sends questions on to the agents of other hosts; see `others.Others`."""

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
        """Have one host's agent answer."""

    async def broadcast(
        self,
        message: str,
        asking: Asking,
        *,
        approve: bool = False,
        path: tuple[Hop, ...] = (),
        request_id: str = "",
    ) -> Results:
        """Have the agents of all hosts answer."""


class QuestionService(Protocol):
    """Answers questions and decides about what they propose; see `desk.Desk`."""

    @property
    def others(self) -> Forwarder:
        """The agents of the other hosts."""

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
        """Answer one question; changes wait for approval unless `approve`."""

    async def decide(self, id_: str, asking: Asking, *, approve: bool, request_id: str = "") -> Answer:
        """Approve or refuse what waits."""

    @staticmethod
    def watch(called: Callable[[WaitingCall], None], done: Callable[[DoneCall], None]) -> Watch:
        """Callbacks that report calls as documents."""


@dataclass(frozen=True)
class Here:
    """What the endpoints of one host share."""

    fleet: Fleet
    settings: Settings
    base_url: Callable[[], str]
    desk: Callable[[], Awaitable[QuestionService]]


@dataclass(frozen=True)
class Visit:
    """One request: where it came in, who sent it, and through which hosts. `alone`: it is about this host only."""

    here: Here
    asking: Asking
    path: tuple[Hop, ...] = ()
    request_id: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False


def require_relay(asking: Asking, here: str, what: str) -> None:
    """Return if this host, `here`, asks others for the caller.

    Raises:
        Denied: the caller's token is for this host alone.
    """
    if not asking.relay:
        raise Denied(
            f"the token of `{asking.name}` is for {here} alone, so {here} does not {what} for it",
            hint=f"for one that lets {here} ask others: run `anvyl-mcp invite --relay` on {here}, then here "
            "`anvyl hosts add`",
        )


@dataclass(frozen=True)
class Endpoint:
    """One row of the table: how it is called, who may, what it takes and answers."""

    method: str
    path: str
    summary: str
    handler: Handler
    needs: Scope
    takes: type[BaseModel] | None
    answers: Mapping[int, Any]
    errors: tuple[int, ...]
    example: Mapping[str, Any] | None
    shows: Mapping[int, Any]
    question: bool
    streams: bool

    @property
    def name(self) -> str:
        """What the handler is called: unique in the table."""
        return self.handler.__name__

    def status(self, answer: BaseModel) -> int:
        """The HTTP status that an answer stands for."""
        for status, kind in self.answers.items():
            if type(answer) in (get_args(kind) or (kind,)):
                return status
        raise TypeError(f"{self.name} answered with {type(answer).__name__}, which its row does not name")


def endpoint(
    method: str,
    path: str,
    *,
    answers: Mapping[int, Any],
    takes: type[BaseModel] | None = None,
    needs: Scope = "read",
    errors: tuple[int, ...] = (),
    example: Mapping[str, Any] | None = None,
    shows: Mapping[int, Any] | None = None,
    question: bool = False,
    streams: bool = False,
) -> Callable[[Handler], Endpoint]:
    """Declare an endpoint. Its docstring is its description.

    `example` and `shows`: a body that makes sense, and what is answered to it. `question`: it costs a caller from
    elsewhere one of its questions. `streams`: it gets a third argument, `Tell`.
    """

    def declared(handler: Handler) -> Endpoint:
        summary = " ".join((handler.__doc__ or "").split())
        return Endpoint(
            method,
            path,
            summary,
            handler,
            needs,
            takes,
            answers,
            errors,
            example,
            shows or {},
            question=question,
            streams=streams,
        )

    return declared


@cache
def load() -> tuple[Endpoint, ...]:
    """Every endpoint of the folder `endpoints`, ordered by path."""
    package = importlib.import_module("anvyl_mcp.orchestrator.api.endpoints")
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)
    ]
    found = [one for module in modules for one in vars(module).values() if isinstance(one, Endpoint)]
    return tuple(sorted(found, key=lambda one: (one.path, one.method)))
