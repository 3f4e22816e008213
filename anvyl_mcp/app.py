"""The composition root: settings become a server, a fleet and an assistant. It connects, closes, decides nothing."""

from __future__ import annotations

import hashlib
import importlib
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from anvyl_mcp import __version__, running
from anvyl_mcp.peers import transports
from anvyl_mcp.peers.fleet import Fleet
from anvyl_mcp.peers.listing import Connection, ToolListing
from anvyl_mcp.peers.registry import Peer, Registry
from anvyl_mcp.settings import Settings

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from anvyl_mcp.orchestrator.agent import Assistant
    from anvyl_mcp.server.engine import Engine

IN_MEMORY = "memory:"
"""URL of this host while no server of it runs: one is made inside this process."""
HERE = Path(__file__).parent

# Everything heavy is imported in the functions that need it: a direct command to a running server must not pay for
# the MCP SDK (0.9 s), nor a server that answers no questions for Pydantic AI (1.2 s).


class Node:
    """This host with its peers, as one process needs it."""

    def __init__(self, settings: Settings, *, lean: bool = False, serving: bool = False) -> None:
        """`lean`: reach peers without the MCP SDK. `serving`: this process is the server itself."""
        self.settings = settings
        server = None if serving else running.find(settings.run_dir)
        self.local = Peer(server.name, server.url) if server else Peer(settings.name, IN_MEMORY)
        self._lean = lean
        self._parts: tuple[Server[Any], Engine] | None = None
        self._answering: Callable[[Request], Awaitable[Response]] | None = None
        self.fleet = Fleet(self.local, Registry(settings.hosts_file), catalogue(settings), self._connect)

    def _connect(self, peer: Peer) -> Connection:
        if peer.url == IN_MEMORY:
            from anvyl_mcp.peers.session import Session

            return Session(self.server)
        return transports.connect(peer.url, lean=self._lean)

    @property
    def server(self) -> Server[Any]:
        """This host's MCP server, made when first needed."""
        return self._made()[0]

    @property
    def engine(self) -> Engine:
        """This host's Docker engine."""
        return self._made()[1]

    def _made(self) -> tuple[Server[Any], Engine]:
        if self._parts is None:
            from anvyl_mcp.fleet_tools import fleet_tools
            from anvyl_mcp.server.engine import Engine
            from anvyl_mcp.server.identity import HostIdentity
            from anvyl_mcp.server.mcp_server import build_server
            from anvyl_mcp.server.tool import load_tools

            engine = Engine()
            dependencies: Mapping[type, object] = {Engine: engine, HostIdentity: HostIdentity(self.local.name)}
            tools = [*load_tools(), *fleet_tools(self.fleet)]
            self._parts = build_server(tools, dependencies, name=self.local.name), engine
        return self._parts

    def assistant(self) -> Assistant:
        """What answers questions about the fleet."""
        from anvyl_mcp.orchestrator.agent import Assistant

        return Assistant(self.fleet, self.settings)

    def http_app(self, base_url: Callable[[], str]) -> Starlette:
        """One application with every route of this host; `base_url` tells where it is served."""
        from starlette.routing import Route

        from anvyl_mcp.orchestrator.info import info
        from anvyl_mcp.server.http import build_app

        routes = [
            Route("/agent/info", info(self.fleet, self.settings, base_url)),
            Route("/agent/process", self._process, methods=["POST"]),
        ]
        return build_app(self.server, self.engine, routes)

    async def _process(self, request: Request) -> Response:
        """Imported at the first question, on a thread: other calls go on meanwhile."""
        if self._answering is None:
            module = await anyio.to_thread.run_sync(importlib.import_module, "anvyl_mcp.orchestrator.routes")
            self._answering = module.process(self.assistant())
        return await self._answering(request)

    async def aclose(self) -> None:
        """Close every connection."""
        await self.fleet.aclose()
        if self._parts is not None:
            self._parts[1].close()


@asynccontextmanager
async def opened(settings: Settings, *, lean: bool = False) -> AsyncIterator[Node]:
    """This host and its fleet for as long as a command takes."""
    node = Node(settings, lean=lean)
    try:
        yield node
    finally:
        await node.aclose()


async def serve(settings: Settings, *, on_ready: Callable[[list[str]], None]) -> bool:
    """Serve this host until told to stop; whether it was by Ctrl-C.

    Raises:
        Conflict: a port is in use, or this installation serves already.
        InvalidInput: the address is not loopback.
    """
    from anvyl_mcp.server import serving

    node = Node(settings, serving=True)
    with running.claim(settings.run_dir) as announced:
        sockets = serving.listen(settings.host, [settings.port, settings.agent_port])
        urls = [serving.url_of(one) for one in sockets if one.family == socket.AF_INET]

        def ready() -> None:
            running.announce(announced, name=node.local.name, url=urls[0], version=__version__)
            on_ready(urls)

        server = serving.server(node.http_app(lambda: urls[0]), node.server, on_ready=ready)
        try:
            await server.serve(sockets)
        finally:
            await node.aclose()
            for one in sockets:
                one.close()
    return server.stopped_by == signal.SIGINT


async def serve_stdio(settings: Settings) -> None:
    """Serve this host's tools to the process that started this one, until it closes our input."""
    from mcp.server.stdio import stdio_server

    node = Node(settings, serving=True)
    try:
        async with stdio_server() as (incoming, outgoing):
            await node.server.run(incoming, outgoing, node.server.create_initialization_options())
    finally:
        await node.aclose()


def catalogue(settings: Settings) -> dict[str, ToolListing]:
    """Every tool this version knows, in its own words; kept in a file so that a direct command need not build it."""
    file = settings.cache_dir / f"tools-{__version__}-{_sources()}.json"
    listed = _cached(file)
    if listed is None:
        listed = _listed()
        _keep(file, listed)
    return {entry["name"]: ToolListing.from_mcp(entry) for entry in listed}


def _listed() -> list[dict[str, Any]]:
    from anvyl_mcp.fleet_tools import fleet_tools
    from anvyl_mcp.server.mcp_server import listing
    from anvyl_mcp.server.tool import load_tools

    result = listing([*load_tools(), *fleet_tools(None)])
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in result.tools]


def _sources() -> str:
    """Changes with the files that declare tools, so that an edited checkout never meets a stale listing."""
    files = [*sorted((HERE / "server" / "tools").glob("*.py")), HERE / "server" / "tool.py", HERE / "fleet_tools.py"]
    stamps = ",".join(f"{file.name}:{file.stat().st_mtime_ns}" for file in files)
    return hashlib.sha256(f"{HERE},{stamps}".encode()).hexdigest()[:12]


def _cached(file: Path) -> list[dict[str, Any]] | None:
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        return listed if all(entry["name"] for entry in listed) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _keep(file: Path, listed: list[dict[str, Any]]) -> None:
    """A full disk or a read-only home only costs the time to build it again."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = file.with_suffix(".new")
        beside.write_text(json.dumps(listed), encoding="utf-8")
        beside.replace(file)
