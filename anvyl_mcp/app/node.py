"""This host with its peers, as one process needs it: a server, a fleet and an assistant made from the settings."""

from __future__ import annotations

import importlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from anvyl_mcp.app.catalogue import catalogue, every_tool
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

    from anvyl_mcp.orchestrator.api.service import AgentService
    from anvyl_mcp.orchestrator.ask.agent import Assistant
    from anvyl_mcp.orchestrator.reply import Reply
    from anvyl_mcp.server.auth.callers import Caller
    from anvyl_mcp.server.engine.engine import Engine
    from anvyl_mcp.server.http.host_state import HostState
    from anvyl_mcp.server.http.metrics.prometheus import PeerHealth
    from anvyl_mcp.server.http.pairing_routes import OpenNetwork

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
        restrict_permissions(settings.state_dir, settings.config_dir)
        self.local = Peer(settings.name, IN_MEMORY) if serving else _this_host(settings)
        self._lean = lean
        self._serving = serving
        self._parts: tuple[Server[Any], Engine, HostState] | None = None
        self._agent_service: AgentService | None = None
        self.heads = HeadStore(settings.heads_file)
        tools, marks = catalogue(settings.cache_dir), DownMarks(settings.cache_dir / "down")
        self.fleet = Fleet(self.local, Registry(settings.hosts_file), tools, self._connect, marks=marks)

    def follow(self) -> None:
        """Take for this host what serves it now: a server may have begun, or ended, since this process did."""
        local = _this_host(self.settings)
        if local != self.local:
            self.local = local
            self.fleet.set_local(local)

    def _connect(self, peer: Peer) -> Connection:
        # This host's own log is the same wherever it is served.
        place = "" if peer == self.local else peer.url
        return WitnessingConnection(
            self._connected(peer),
            peer.name,
            place,
            self.heads,
            partial(key_rotation.record_announced_key, self.fleet.registry, peer),
        )

    def _connected(self, peer: Peer) -> Connection:
        if peer.url == IN_MEMORY:
            from anvyl_mcp.peers.connection.sdk_client import SdkClient

            return SdkClient(self.server)
        following = key_rotation.next_key(self.fleet.registry, peer)
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
    def state(self) -> HostState:
        """Who may call this host, and what was done."""
        return self._made()[2]

    def _made(self) -> tuple[Server[Any], Engine, HostState]:
        if self._parts is None:
            from anvyl_mcp.server.auth.limits import Limits
            from anvyl_mcp.server.calls.affected_objects import Observer
            from anvyl_mcp.server.calls.changes import Changes
            from anvyl_mcp.server.calls.gate import Gate
            from anvyl_mcp.server.calls.policy_facts import facts_from
            from anvyl_mcp.server.containers.undo_log import UndoLog
            from anvyl_mcp.server.engine.engine import Engine
            from anvyl_mcp.server.engine.stats import SampleCache
            from anvyl_mcp.server.http.host_state import HostState
            from anvyl_mcp.server.http.metrics.prometheus import Metrics
            from anvyl_mcp.server.identity import HostIdentity
            from anvyl_mcp.server.policy.policy import Policy
            from anvyl_mcp.server.progress import Progress
            from anvyl_mcp.server.protocol.server import build_server
            from anvyl_mcp.server.toolsets import select_tools

            engine, kept = Engine(), HostState(self.settings.state_dir)
            self._limits = Limits()
            dependencies: dict[type, object] = {
                Engine: engine,
                HostIdentity: HostIdentity(self.local.name),
                Progress: Progress(),
                SampleCache: SampleCache(),
            }
            self.policy = Policy(self.settings.policy_file, facts_from(engine), on_change=kept.policy_seen)
            dependencies[UndoLog] = UndoLog(self.settings.state_dir / "undo.json", self.policy.require)
            every = every_tool(self.fleet)
            # What a person types here may use every tool; what is served to others is chosen.
            toolsets = self.settings.toolsets if self._serving else "all"
            read_only = self.settings.read_only
            tools = select_tools(every, toolsets=toolsets, extra=self.settings.tools, read_only=read_only)
            self._changes = Changes(kept.audit, kept.journal, Observer(engine))
            gate = Gate(kept.audit, self._limits, self.policy, self._changes, kept.next_key.announce)
            self.metrics = Metrics()
            server = build_server(tools, dependencies, gate, name=self.local.name, called=self.metrics.count_call)
            self._parts = server, engine, kept
        return self._parts

    @property
    def me(self) -> Caller:
        """Whoever started this process: with every right here."""
        from anvyl_mcp.server.auth.callers import LOCAL

        return LOCAL

    def assistant(self) -> Assistant:
        """What answers questions about the fleet."""
        from anvyl_mcp.orchestrator.ask.agent import Assistant
        from anvyl_mcp.server.policy import guardrails

        def count(reply: Reply) -> None:
            outcome = reply.error.code if reply.error else "ok"
            self.metrics.count_question(
                mode=reply.mode, model=reply.model, outcome=outcome, seconds=reply.seconds, usage=reply.usage
            )

        on_reply = count if self._serving else lambda _: None
        return Assistant(self.fleet, self.settings, on_reply=on_reply, weigh=guardrails.reasons_by_name)

    def ready_to_answer(self) -> Assistant:
        """What answers questions, with all it needs. Seconds of imports: for a thread, so that Ctrl-C is heard."""
        if self.local.url == IN_MEMORY:
            self._made()
        return self.assistant()

    def http_app(self, base_url: Callable[[], str], open_network: OpenNetwork) -> Starlette:
        """One application with every route of this host; `base_url` tells where it is served."""
        from anvyl_mcp.orchestrator.api.endpoint import HostContext
        from anvyl_mcp.orchestrator.api.routes import agent_routes
        from anvyl_mcp.server.auth.callers import caller_of
        from anvyl_mcp.server.http.app import build_app
        from anvyl_mcp.server.http.authentication import make_verifier
        from anvyl_mcp.server.http.metrics.prometheus import metrics_route
        from anvyl_mcp.server.http.request_ids import REQUEST_ID

        server, engine, kept = self._made()
        limits = self._limits
        figures = metrics_route(self.metrics, engine, kept.audit, kept.journal, self._peers, self.local.name)
        routes = agent_routes(
            HostContext(self.fleet, self.settings, base_url, self.agent_service),
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
            verifier=make_verifier(self.settings),
            local_token=self.settings.run_dir / serve_lock.LOCAL_TOKEN_FILE,
            open_network=open_network,
        )

    async def _peers(self) -> list[PeerHealth]:
        """How the other hosts do."""
        from anvyl_mcp.server.http.metrics.prometheus import PeerHealth

        others = [name for name in self.fleet.hosts if name != self.local.name]
        found = await check_hosts(self.fleet, others)
        return [PeerHealth(one.name, one.ok, self.fleet.is_skipped(one.name)) for one in found]

    async def agent_service(self) -> AgentService:
        """The service behind the agent API. Imported on a thread, because the import takes a second."""
        module = await anyio.to_thread.run_sync(importlib.import_module, "anvyl_mcp.orchestrator.api.service")
        if self._agent_service is None:
            from anvyl_mcp.orchestrator.approvals import Approvals

            approvals = Approvals(self.settings.state_dir / "approvals")
            own_hop = Hop(self.local.name, installation_id(self.settings.state_dir))
            self._agent_service = module.AgentService(self.assistant(), self.fleet, approvals, own_hop)
        return self._agent_service

    async def info(self) -> dict[str, Any]:
        """The response of `/agent/info`; its status is `stopped` if no server is running."""
        from anvyl_mcp.orchestrator.api.endpoint import AgentRequest, HostContext
        from anvyl_mcp.orchestrator.api.endpoints.info import info

        served = "://" in self.local.url
        url = self.local.url if served else f"http://127.0.0.1:{self.settings.port}"
        context = HostContext(self.fleet, self.settings, lambda: url, self.agent_service)
        response = await info.handler(AgentRequest(context, self.me))
        assert response is not None
        return {**response.model_dump(mode="json"), **({} if served else {"status": "stopped"})}

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
    server = serve_lock.find_server(settings.run_dir)
    if server is None:
        return Peer(settings.name, IN_MEMORY)
    return Peer(server.name, server.url, token=serve_lock.read_local_token(settings.run_dir))


@asynccontextmanager
async def opened(settings: Settings, *, lean: bool = False) -> AsyncIterator[Node]:
    """This host and its fleet for as long as a command takes."""
    node = Node(settings, lean=lean)
    try:
        yield node
    finally:
        await node.aclose()
