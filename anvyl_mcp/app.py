"""The composition root: settings become a server, a fleet and an assistant. It connects, closes, decides nothing."""

from __future__ import annotations

import importlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from anvyl_mcp import __version__, running
from anvyl_mcp.beside import Beside
from anvyl_mcp.catalogue import catalogue
from anvyl_mcp.errors import InvalidInput, did_you_mean
from anvyl_mcp.files import tighten
from anvyl_mcp.peers import rekeying, transports
from anvyl_mcp.peers.down_marks import DownMarks
from anvyl_mcp.peers.fleet import Fleet
from anvyl_mcp.peers.heads import Heads, Witness
from anvyl_mcp.peers.health import check_hosts
from anvyl_mcp.peers.listing import Connection
from anvyl_mcp.peers.path import Stop, own_id
from anvyl_mcp.peers.registry import Peer, Registry
from anvyl_mcp.settings import Settings

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server
    from starlette.applications import Starlette

    from anvyl_mcp.orchestrator.agent import Assistant
    from anvyl_mcp.orchestrator.desk import Desk
    from anvyl_mcp.orchestrator.reply import Reply
    from anvyl_mcp.server.callers import Caller
    from anvyl_mcp.server.engine import Engine
    from anvyl_mcp.server.joining import Open
    from anvyl_mcp.server.metrics import PeerFigures
    from anvyl_mcp.server.tool import Tool
    from anvyl_mcp.server.trust import Trust

log = logging.getLogger(__name__)

IN_MEMORY = "memory:"
"""URL of this host while no server of it runs: one is made inside this process."""

# Everything heavy is imported in the functions that need it: a direct command to a running server must not pay for
# the MCP SDK (0.9 s), nor a server that answers no questions for Pydantic AI (1.2 s).


class Node:
    """This host with its peers, as one process needs it."""

    def __init__(self, settings: Settings, *, lean: bool = False, serving: bool = False) -> None:
        """`lean`: reach peers without the MCP SDK. `serving`: this process is the server itself."""
        self.settings = settings
        tighten(settings.state_dir, settings.config_dir)
        self.local = Peer(settings.name, IN_MEMORY) if serving else _this_host(settings)
        self._lean = lean
        self._serving = serving
        self._parts: tuple[Server[Any], Engine, Trust] | None = None
        self._desk: Desk | None = None
        self.heads = Heads(settings.heads_file)
        tools, marks = catalogue(settings.cache_dir), DownMarks(settings.cache_dir / "down")
        self.fleet = Fleet(self.local, Registry(settings.hosts_file), tools, self._connect, marks=marks)

    def follow(self) -> None:
        """Take for this host what serves it now: a server may have begun, or ended, since this process did."""
        local = _this_host(self.settings)
        if local != self.local:
            self.local = local
            self.fleet.move(local)

    def _connect(self, peer: Peer) -> Connection:
        # This host's own log is the same wherever it is served.
        place = "" if peer == self.local else peer.url
        return Witness(
            self._connected(peer), peer.name, place, self.heads, partial(rekeying.announced, self.fleet.registry, peer)
        )

    def _connected(self, peer: Peer) -> Connection:
        if peer.url == IN_MEMORY:
            from anvyl_mcp.peers.session import Session

            return Session(self.server)
        following = rekeying.following(self.fleet.registry, peer)
        return transports.connect(peer.url, lean=self._lean, pin=peer.pin, token=peer.token, following=following)

    @property
    def server(self) -> Server[Any]:
        """This host's MCP server, made when first needed."""
        return self._made()[0]

    @property
    def engine(self) -> Engine:
        """The Docker engine of this host."""
        return self._made()[1]

    @property
    def trust(self) -> Trust:
        """Who may call this host, and what was done."""
        return self._made()[2]

    def _made(self) -> tuple[Server[Any], Engine, Trust]:
        if self._parts is None:
            from anvyl_mcp.fleet_tools import fleet_tools
            from anvyl_mcp.server.changes import Changes
            from anvyl_mcp.server.engine import Engine
            from anvyl_mcp.server.gate import Gate
            from anvyl_mcp.server.identity import HostIdentity
            from anvyl_mcp.server.limits import Limits
            from anvyl_mcp.server.mcp_server import build_server
            from anvyl_mcp.server.metrics import Metrics
            from anvyl_mcp.server.policy import Policy
            from anvyl_mcp.server.policy_objects import looking
            from anvyl_mcp.server.progress import Progress
            from anvyl_mcp.server.stats import Samples
            from anvyl_mcp.server.toolsets import choose, load_tools
            from anvyl_mcp.server.touched import Observer
            from anvyl_mcp.server.undoing import Undoable

            engine, kept = Engine(), trust(self.settings)
            self._limits = Limits()
            dependencies: dict[type, object] = {
                Engine: engine,
                HostIdentity: HostIdentity(self.local.name),
                Progress: Progress(),
                Samples: Samples(),
            }
            self.policy = Policy(self.settings.policy_file, looking(engine), on_change=kept.policy_seen)
            dependencies[Undoable] = Undoable(self.settings.state_dir / "undo.json", self.policy.require)
            every = [*load_tools(), *fleet_tools(self.fleet)]
            # What a person types here may use every tool; what is served to others is chosen.
            toolsets = self.settings.toolsets if self._serving else "all"
            read_only = self.settings.read_only
            tools = choose(every, toolsets=toolsets, extra=self.settings.tools, read_only=read_only)
            self._changes = Changes(kept.audit, kept.journal, Observer(engine))
            gate = Gate(kept.audit, self._limits, self.policy, self._changes, kept.next_key.announce)
            self.metrics = Metrics()
            server = build_server(tools, dependencies, gate, name=self.local.name, called=self.metrics.called)
            self._parts = server, engine, kept
        return self._parts

    @property
    def me(self) -> Caller:
        """Whoever started this process: with every right here."""
        from anvyl_mcp.server.callers import LOCAL

        return LOCAL

    def assistant(self) -> Assistant:
        """What answers questions about the fleet."""
        from anvyl_mcp.orchestrator.agent import Assistant
        from anvyl_mcp.server import guardrails

        def count(reply: Reply) -> None:
            outcome = reply.error.code if reply.error else "ok"
            self.metrics.asked(
                mode=reply.mode, model=reply.model, outcome=outcome, seconds=reply.seconds, usage=reply.usage
            )

        on_reply = count if self._serving else lambda _: None
        return Assistant(self.fleet, self.settings, on_reply=on_reply, weigh=guardrails.reasons_by_name)

    def ready_to_answer(self) -> Assistant:
        """What answers questions, with all it needs. Seconds of imports: for a thread, so that Ctrl-C is heard."""
        if self.local.url == IN_MEMORY:
            self._made()
        return self.assistant()

    def http_app(self, base_url: Callable[[], str], open_network: Open) -> Starlette:
        """One application with every route of this host; `base_url` tells where it is served."""
        from anvyl_mcp.orchestrator.endpoint import Here
        from anvyl_mcp.orchestrator.routes import agent_routes
        from anvyl_mcp.server.access import verifier
        from anvyl_mcp.server.callers import caller_of
        from anvyl_mcp.server.http import build_app
        from anvyl_mcp.server.metrics import metrics_route
        from anvyl_mcp.server.request_ids import REQUEST_ID

        server, engine, kept = self._made()
        limits = self._limits
        figures = metrics_route(self.metrics, engine, kept.audit, kept.journal, self._peers, self.local.name)
        routes = agent_routes(
            Here(self.fleet, self.settings, base_url, self.desk),
            caller_of,
            lambda request: limits.charge(caller_of(request), "operate"),
            REQUEST_ID.get,
        )
        return build_app(
            server,
            engine,
            kept,
            [*routes, figures],
            name=self.local.name,
            verifier=verifier(self.settings),
            local_token=self.settings.run_dir / running.LOCAL_TOKEN,
            open_network=open_network,
        )

    async def _peers(self) -> list[PeerFigures]:
        """How the other hosts do."""
        from anvyl_mcp.server.metrics import PeerFigures

        others = [name for name in self.fleet.hosts if name != self.local.name]
        found = await check_hosts(self.fleet, others)
        return [PeerFigures(one.name, one.ok, self.fleet.is_spared(one.name)) for one in found]

    async def desk(self) -> Desk:
        """Where questions from elsewhere are answered; imported on a thread, because other calls go on meanwhile."""
        module = await anyio.to_thread.run_sync(importlib.import_module, "anvyl_mcp.orchestrator.desk")
        if self._desk is None:
            from anvyl_mcp.orchestrator.approvals import Approvals

            approvals = Approvals(self.settings.state_dir / "approvals")
            here = Stop(self.local.name, own_id(self.settings.state_dir))
            self._desk = module.Desk(self.assistant(), self.fleet, approvals, here)
        return self._desk

    async def info(self) -> dict[str, Any]:
        """What `/agent/info` of this host tells, or would tell if it were served."""
        from anvyl_mcp.orchestrator.endpoint import Here, Visit
        from anvyl_mcp.orchestrator.endpoints.info import info

        served = "://" in self.local.url
        url = self.local.url if served else f"http://127.0.0.1:{self.settings.port}"
        told = await info.handler(Visit(Here(self.fleet, self.settings, lambda: url, self.desk), self.me))
        assert told is not None
        return {**told.model_dump(mode="json"), **({} if served else {"status": "stopped"})}

    async def aclose(self) -> None:
        """Close every connection and file."""
        await self.fleet.aclose()
        if self._parts is not None:
            _, engine, kept = self._parts
            self._changes.close()
            engine.close()
            kept.audit.close()


def _this_host(settings: Settings) -> Peer:
    """This host behind its running server, or in memory when none runs. Each server makes a token of its own."""
    server = running.find(settings.run_dir)
    if server is None:
        return Peer(settings.name, IN_MEMORY)
    return Peer(server.name, server.url, token=running.local_token(settings.run_dir))


@asynccontextmanager
async def opened(settings: Settings, *, lean: bool = False) -> AsyncIterator[Node]:
    """This host and its fleet for as long as a command takes."""
    node = Node(settings, lean=lean)
    try:
        yield node
    finally:
        await node.aclose()


async def serve(
    settings: Settings,
    *,
    on_ready: Callable[[list[str]], None],
    on_open: Callable[[list[str]], None] = lambda _: None,
    on_joined: Callable[[object], None] = lambda joined: None,
    on_start: Callable[[Node, Callable[[], None]], None] | None = None,
) -> bool:
    """Serve this host until told to stop; whether it was by Ctrl-C.

    `on_open` gets the addresses that an invitation opened while the server ran, none when all were open; `on_joined`
    gets each machine that joins; `on_start` gets the node and what stops it, for a program with signals of its own.

    Raises:
        Conflict: a port is in use, or this installation serves already.
        InvalidInput: the address is not one of this machine's.
        ConfigInvalid: what the settings ask for is not installed.
    """
    from anvyl_mcp.server import policy_report, serving

    node = Node(settings, serving=True)
    beside = Beside(node.fleet, settings)
    kept = node.trust
    kept.on_joined = on_joined
    with running.claim(settings.run_dir) as announced:
        sockets = serving.listen(settings.host or kept.opened or "127.0.0.1", [settings.port, settings.agent_port])
        plain = [serving.url_of(one) for one in sockets if serving.is_plain(one)]

        def announce(network: list[str]) -> None:
            running.announce(announced, name=node.local.name, url=plain[0], version=__version__, network=network)
            beside.opened(network)

        async def open_network(address: str) -> list[str]:
            before = server.network_urls
            urls = await server.open(address)
            kept.remember_opened(address)
            announce(urls)
            on_open([url for url in urls if url not in before])
            return urls

        def ready() -> None:
            announce(server.network_urls)
            node.fleet.served_at = plain[0]
            on_ready([url for url in plain if "[" not in url] + server.network_urls)
            policy_report.tell(node.policy, every_tool())

        app = node.http_app(lambda: plain[0], open_network)
        mine = on_start is None
        server = serving.server(app, node.server, on_ready=ready, identity=kept.identity, signals=mine)
        if on_start is not None:
            on_start(node, server.stop)
        kept.audit.open()
        kept.journal.open()
        try:
            async with beside.running():
                await server.serve(sockets)
        finally:
            await node.aclose()
            for one in sockets:
                one.close()
    return server.stopped_by == signal.SIGINT


async def serve_stdio(settings: Settings) -> None:
    """Serve this host's tools to the process that started this one, until it closes our input."""
    from anvyl_mcp.server import policy_report
    from anvyl_mcp.server.incoming import stdio

    node = Node(settings, serving=True)
    server = node.server
    policy_report.tell(node.policy, every_tool())
    try:
        async with stdio() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
    finally:
        await node.aclose()


def trust(settings: Settings) -> Trust:
    """What this installation keeps about who may call it."""
    from anvyl_mcp.server.trust import Trust

    return Trust(settings.state_dir)


def check_policy(settings: Settings) -> dict[str, Any]:
    """What is wrong with this host's policy; see `server.policy_report`."""
    from anvyl_mcp.server.policy import Policy
    from anvyl_mcp.server.policy_report import checked

    return checked(Policy(settings.policy_file), every_tool())


def test_policy(
    settings: Settings, name: str, words: list[str], *, caller: str, scope: str, labels: Mapping[str, str]
) -> dict[str, Any]:
    """Whether this host would let a call through, and what decides it; see `server.policy_report`.

    Raises:
        InvalidInput: there is no such tool, or it takes no such arguments.
    """
    from anvyl_mcp.peers.arguments import from_words
    from anvyl_mcp.server import policy_report
    from anvyl_mcp.server.engine import Engine
    from anvyl_mcp.server.policy import Policy
    from anvyl_mcp.server.policy_objects import looking

    known = catalogue(settings.cache_dir)
    if name not in known:
        raise InvalidInput(f"there is no tool `{name}`", hint=did_you_mean(name, known))
    given = from_words(known[name], words)
    tool = next(one for one in every_tool() if one.name == name)
    notes: list[str] = []
    engine = Engine()
    try:
        policy = Policy(settings.policy_file, policy_report.guessing(looking(engine), labels, notes))
        who = policy_report.caller_called(caller, scope, trust(settings).tokens)
        return {**policy_report.tested(policy, tool, tool.parse(given), who), "notes": notes}
    finally:
        engine.close()


def every_tool() -> list[Tool]:
    """All that this installation could serve."""
    from anvyl_mcp.fleet_tools import fleet_tools
    from anvyl_mcp.server.toolsets import load_tools

    return [*load_tools(), *fleet_tools(None)]


async def invite(settings: Settings, **wanted: Any) -> dict[str, Any]:
    """A join code for another machine; see `server.inviting`."""
    from anvyl_mcp.server.inviting import invite as made

    return await made(settings, **wanted)
