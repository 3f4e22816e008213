"""The composition root: a `Node` builds the parts of one process from its settings, connects and closes them.

Every command, `anvyl-mcp serve`, the gateway and `anvyl_mcp.agent` start by creating one:

    Settings ─► Node ─┬─ fleet          this host and its peers; the only way to call a tool
                      ├─ server         the MCP server of this host, with its engine, policy and audit log
                      ├─ assistant      answers questions by calling tools of the fleet
                      └─ agent_service  the assistant behind `/agent/*`, with approvals

It decides nothing itself. Each part is created on first use, and its modules are imported then: a command that calls a
running server must not spend 0.9 s on importing the MCP SDK, nor a server that gets no questions 1.2 s on Pydantic AI.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from anvyl_mcp.app.catalogue import load_listings, served_tools
from anvyl_mcp.core import serve_lock
from anvyl_mcp.core.files import restrict_permissions
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.peers.connection import transports
from anvyl_mcp.peers.connection.listing import Connection
from anvyl_mcp.peers.fleet.down_marks import DownMarks
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.hops import Hop, installation_id
from anvyl_mcp.peers.hosts import key_rotation
from anvyl_mcp.peers.hosts.audit_witness import HeadStore, WitnessingConnection
from anvyl_mcp.peers.hosts.registry import Peer, Registry
from anvyl_mcp.peers.watch.health import check_hosts

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server
    from starlette.applications import Starlette

    from anvyl_mcp.orchestrator.api.endpoint import HostContext
    from anvyl_mcp.orchestrator.api.service import AgentService
    from anvyl_mcp.orchestrator.approvals import Approvals
    from anvyl_mcp.orchestrator.ask.agent import Assistant
    from anvyl_mcp.orchestrator.reply import Reply
    from anvyl_mcp.server.auth.callers import Caller
    from anvyl_mcp.server.auth.limits import Limits
    from anvyl_mcp.server.calls.changes import Changes
    from anvyl_mcp.server.engine.engine import Engine
    from anvyl_mcp.server.history.recorder import Recorder
    from anvyl_mcp.server.history.store import HistoryStore
    from anvyl_mcp.server.http.host_state import HostState
    from anvyl_mcp.server.http.metrics.prometheus import Metrics, PeerHealth
    from anvyl_mcp.server.http.pairing_routes import OpenNetwork
    from anvyl_mcp.server.policy.policy import Policy
    from anvyl_mcp.server.updates.update import Updater

IN_MEMORY = "memory:"
"""URL of this host when no server is running: the node then calls its own MCP server inside this process."""

RECOVERY_SECONDS = 10.0
"""Seconds between attempts to put interrupted updates right, while the engine does not answer."""
TENDING_SECONDS = 1800.0
"""Seconds between looks for images that were kept long enough."""


class Node:
    """This host and its fleet, for one process. Close it with `aclose`, or use `open_node`."""

    def __init__(self, settings: Settings, *, lean: bool = False, serving: bool = False) -> None:
        """`lean`: connect to peers without the MCP SDK. `serving`: this process is the server of this host."""
        self.settings = settings
        restrict_permissions(settings.state_dir, settings.config_dir)
        self.local = Peer(settings.name, IN_MEMORY) if serving else _find_local_host(settings)
        self.audit_heads = HeadStore(settings.heads_file)
        self._lean = lean
        self._serving = serving
        self._server_parts: _ServerParts | None = None
        self._agent_service: AgentService | None = None
        self._end_streams: Callable[[], None] = lambda: None
        tools, marks = load_listings(settings.cache_dir), DownMarks(settings.cache_dir / "down")
        self.fleet = Fleet(self.local, Registry(settings.hosts_file), tools, self._connect, marks=marks)

    def refresh_local_host(self) -> None:
        """Connect to the server of this host if one was started meanwhile, or use memory if it was stopped."""
        local = _find_local_host(self.settings)
        if local != self.local:
            self.local = local
            self.fleet.set_local(local)

    def _connect(self, peer: Peer) -> Connection:
        """Connect to a host, and remember the last record of its audit log and the key that it announces."""
        # The audit log of this host is the same at every URL.
        url = "" if peer == self.local else peer.url
        on_key = partial(key_rotation.record_announced_key, self.fleet.registry, peer)
        return WitnessingConnection(self._open_connection(peer), peer.name, url, self.audit_heads, on_key)

    def _open_connection(self, peer: Peer) -> Connection:
        if peer.url == IN_MEMORY:
            from anvyl_mcp.peers.connection.sdk_client import SdkClient

            return SdkClient(self.server)
        next_key = key_rotation.next_key(self.fleet.registry, peer)
        return transports.connect(peer.url, lean=self._lean, pin=peer.pin, token=peer.token, next_key=next_key)

    def _parts(self) -> _ServerParts:
        if self._server_parts is None:
            self._server_parts = _build_server(self.settings, self.fleet, self.local.name, serving=self._serving)
        return self._server_parts

    @property
    def server(self) -> Server[Any]:
        """The MCP server of this host."""
        return self._parts().server

    @property
    def engine(self) -> Engine:
        """The Docker engine of this host."""
        return self._parts().engine

    @property
    def state(self) -> HostState:
        """Tokens, invitations, keys, audit log and journal of this host."""
        return self._parts().state

    def recorder(self) -> Recorder:
        """Create the recorder of this host's history."""
        from anvyl_mcp.server.history.recorder import Recorder

        return Recorder(self.engine, self._parts().history)

    @property
    def policy(self) -> Policy:
        """The rules of `policy.toml`."""
        return self._parts().policy

    @property
    def local_caller(self) -> Caller:
        """The user who started this process, with every scope on this host."""
        from anvyl_mcp.server.auth.callers import LOCAL

        return LOCAL

    def assistant(self) -> Assistant:
        """Create the assistant that answers questions about the fleet."""
        from anvyl_mcp.orchestrator.ask.agent import Assistant

        on_reply = self._count_reply if self._serving else lambda _: None
        return Assistant(self.fleet, self.settings, on_reply=on_reply, root_reasons=self.root_reasons)

    def root_reasons(self, tool: str, arguments: Mapping[str, Any]) -> Sequence[str]:
        """Why a call gives root on its host; with an empty tool name, only its arguments are checked."""
        from anvyl_mcp.server.policy import guardrails

        return guardrails.reasons_by_name(tool, arguments)

    def load_assistant(self) -> Assistant:
        """Create the assistant, and import all that it needs. Takes seconds: run it on a thread, so Ctrl-C works."""
        if self.local.url == IN_MEMORY:
            self._parts()
        return self.assistant()

    def _count_reply(self, reply: Reply) -> None:
        outcome = reply.error.code if reply.error else "ok"
        self._parts().metrics.count_question(
            mode=reply.mode, model=reply.model, outcome=outcome, seconds=reply.seconds, usage=reply.usage
        )

    async def agent_service(self) -> AgentService:
        """Return the service behind `/agent/*`. Its import runs on a thread, so that other requests do not wait."""
        module = await anyio.to_thread.run_sync(importlib.import_module, "anvyl_mcp.orchestrator.api.service")
        if self._agent_service is None:
            here = Hop(self.local.name, installation_id(self.settings.state_dir))
            self._agent_service = module.AgentService(self.assistant(), self.fleet, self._approvals(), here)
        return self._agent_service

    def _approvals(self) -> Approvals:
        from anvyl_mcp.orchestrator.approvals import Approvals

        return Approvals(self.settings.state_dir / "approvals")

    def _host_context(self, base_url: Callable[[], str]) -> HostContext:
        from anvyl_mcp.orchestrator.api.direct_call import DirectCalls
        from anvyl_mcp.orchestrator.api.endpoint import HostContext

        return HostContext(
            self.fleet,
            self.settings,
            base_url,
            self.agent_service,
            DirectCalls(self.fleet, self._approvals()),
            lambda caller: self.state.may_continue(caller),
        )

    async def agent_info(self) -> dict[str, Any]:
        """Return what `/agent/info` returns, also while no server is running."""
        from anvyl_mcp.orchestrator.api.endpoint import AgentRequest
        from anvyl_mcp.orchestrator.api.endpoints.info import info

        running = "://" in self.local.url
        url = self.local.url if running else f"http://127.0.0.1:{self.settings.port}"
        response = await info.handler(AgentRequest(self._host_context(lambda: url), self.local_caller))
        assert response is not None
        return {**response.model_dump(mode="json"), **({} if running else {"status": "stopped"})}

    def http_app(self, base_url: Callable[[], str], open_network: OpenNetwork) -> Starlette:
        """Build the HTTP application: MCP, `/agent/*`, pairing and metrics. `base_url` returns its own URL."""
        from anvyl_mcp.orchestrator.api.routes import agent_routes
        from anvyl_mcp.server.auth.callers import caller_of
        from anvyl_mcp.server.http.app import build_app
        from anvyl_mcp.server.http.authentication import make_verifier
        from anvyl_mcp.server.http.metrics.prometheus import metrics_route
        from anvyl_mcp.server.http.request_ids import REQUEST_ID

        parts, name = self._parts(), self.local.name
        state = parts.state
        context = self._host_context(base_url)
        self._end_streams = context.closing.set
        routes = agent_routes(
            context,
            caller_of,
            lambda request: parts.limits.charge(caller_of(request), "operate"),
            REQUEST_ID.get,
        )
        metrics = metrics_route(parts.metrics, parts.engine, state.audit, state.journal, self._peer_figures, name)
        return build_app(
            parts.server,
            parts.engine,
            state,
            [*routes, metrics],
            name=name,
            verifier=make_verifier(self.settings),
            local_token=self.settings.run_dir / serve_lock.LOCAL_TOKEN_FILE,
            open_network=open_network,
        )

    def end_streams(self) -> None:
        """End the responses that go on as long as the server runs."""
        self._end_streams()

    async def _peer_figures(self) -> list[PeerHealth]:
        """Check the other hosts, for the metrics."""
        from anvyl_mcp.server.http.metrics.prometheus import PeerHealth

        peers = [name for name in self.fleet.hosts if name != self.local.name]
        reports = await check_hosts(self.fleet, peers)
        return [PeerHealth(one.name, one.ok, self.fleet.is_skipped(one.name)) for one in reports]

    async def tend_updates(self) -> None:
        """Put interrupted updates right once the engine answers, and remove old images that were kept for a day."""
        updater, engine = self._parts().updater, self._parts().engine
        while True:
            done = await anyio.to_thread.run_sync(updater.tend, engine, abandon_on_cancel=True)
            await anyio.sleep(TENDING_SECONDS if done else RECOVERY_SECONDS)

    async def aclose(self) -> None:
        """Close all connections and files."""
        await self.fleet.aclose()
        if self._server_parts is not None:
            self._server_parts.close()


@dataclass(frozen=True)
class _ServerParts:
    """The MCP server of this host, and the parts of it that HTTP routes and commands use."""

    server: Server[Any]
    engine: Engine
    state: HostState
    policy: Policy
    limits: Limits
    changes: Changes
    metrics: Metrics
    updater: Updater
    history: HistoryStore

    def close(self) -> None:
        """Close all files and the connection to the engine."""
        self.changes.close()
        self.history.close()
        self.engine.close()
        self.state.audit.close()


def _build_server(settings: Settings, fleet: Fleet, name: str, *, serving: bool) -> _ServerParts:
    """Build the MCP server of this host. Each call passes limits, policy, audit log and locks, in `Gate`."""
    from anvyl_mcp.app.installation.home_format import prepare_home
    from anvyl_mcp.server.auth.limits import Limits
    from anvyl_mcp.server.calls.affected_objects import Observer
    from anvyl_mcp.server.calls.changes import Changes
    from anvyl_mcp.server.calls.gate import Gate
    from anvyl_mcp.server.calls.policy_facts import facts_from
    from anvyl_mcp.server.containers.undo_log import UndoLog
    from anvyl_mcp.server.engine.engine import Engine
    from anvyl_mcp.server.engine.stats import SampleCache
    from anvyl_mcp.server.history.recorder import ChangeLog
    from anvyl_mcp.server.history.store import HistoryStore
    from anvyl_mcp.server.http.host_state import HostState
    from anvyl_mcp.server.http.metrics.prometheus import Metrics
    from anvyl_mcp.server.identity import HostIdentity
    from anvyl_mcp.server.policy.policy import Policy
    from anvyl_mcp.server.progress import Progress
    from anvyl_mcp.server.protocol.server import build_server
    from anvyl_mcp.server.registries.check_cache import CheckCache
    from anvyl_mcp.server.registries.image_check import ImageChecker
    from anvyl_mcp.server.stacks.version_store import VersionStore
    from anvyl_mcp.server.swarm.join_secret import JoinKeys
    from anvyl_mcp.server.swarm.membership import SwarmWatch
    from anvyl_mcp.server.toolsets import offered_tools
    from anvyl_mcp.server.updates.records import UpdateRecords
    from anvyl_mcp.server.updates.update import Updater

    prepare_home(settings.config_dir, settings.state_dir)
    engine, state = Engine(), HostState(settings.state_dir)
    policy = Policy(settings.policy_file, facts_from(engine), on_change=state.policy_seen)
    limits, metrics = Limits(), Metrics()
    swarm = SwarmWatch(engine)
    history = HistoryStore(settings.state_dir / "history")
    changes = Changes(state.audit, state.journal, Observer(engine), ChangeLog(history))
    gate = Gate(state.audit, limits, policy, changes, state.next_key.announce)
    checker = ImageChecker(CheckCache(settings.cache_dir / "updates.json"))
    undo_log = UndoLog(settings.state_dir / "undo.json", policy.require)
    updater = Updater(UpdateRecords(settings.state_dir), checker, undo_log, state.journal.end)
    dependencies: dict[type, object] = {
        Engine: engine,
        HistoryStore: history,
        HostIdentity: HostIdentity(name),
        JoinKeys: JoinKeys(),
        Progress: Progress(),
        SampleCache: SampleCache(),
        ImageChecker: checker,
        SwarmWatch: swarm,
        UndoLog: undo_log,
        Updater: updater,
        VersionStore: VersionStore(settings.state_dir / "stacks"),
    }
    # The settings restrict what a server offers to others. A local command may use every tool.
    toolsets = settings.toolsets if serving else "all"
    tools = offered_tools(served_tools(fleet), toolsets=toolsets, extra=settings.tools, read_only=settings.read_only)
    server = build_server(tools, dependencies, gate, name=name, called=metrics.count_call, availability=swarm)
    return _ServerParts(server, engine, state, policy, limits, changes, metrics, updater, history)


def _find_local_host(settings: Settings) -> Peer:
    """Return this host at the URL of its running server, with the token for local commands, or else in memory."""
    server = serve_lock.find_server(settings.run_dir)
    if server is None:
        return Peer(settings.name, IN_MEMORY)
    return Peer(server.name, server.url, token=serve_lock.read_local_token(settings.run_dir))


@asynccontextmanager
async def open_node(settings: Settings, *, lean: bool = False) -> AsyncIterator[Node]:
    """Create a node for one command and close it afterwards."""
    node = Node(settings, lean=lean)
    try:
        yield node
    finally:
        await node.aclose()
