"""The Python API: run the agent of a host inside your own program.

manager = create_agent_manager(lmstudio_url="http://localhost:1234/v1", port=4200)
await manager.start()
print(await manager.agent.process_query("list all containers"))
await manager.stop()
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import anyio

from anvyl_mcp.app.node import Node
from anvyl_mcp.app.serve import serve
from anvyl_mcp.core.errors import AnvylError, Conflict
from anvyl_mcp.core.settings import Settings, load
from anvyl_mcp.peers.connection.transports import DEFAULT_PORT
from anvyl_mcp.peers.hosts.addresses import url_of
from anvyl_mcp.peers.membership import new_peer


class HostAgent:
    """The agent of this host. It works with or without a running server. Close it with `aclose`.

    `ask`, `ask_host` and `approve` return the full answer and raise errors. The older methods `process_query` and
    `query_remote_host` return text only, and return an error as text too.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or load()
        self._node: Node | None = None

    @property
    def node(self) -> Node:
        """The node that the agent uses, created on first use."""
        if self._node is None:
            self._node = Node(self._settings)
        return self._node

    @property
    def host_id(self) -> str:
        """The name of this host in the fleet."""
        return self.node.local.name

    async def ask(self, text: str, *, approve: bool = False) -> dict[str, Any]:
        """Answer a question: `{"response", "calls", "mode", "model", …}`, with an `approval` if a change needs one.

        `approve` runs changes without asking.

        Raises:
            AnvylError: the question could not be answered.
        """
        service = await self.node.agent_service()
        return (await service.process(text, self.node.local_caller, approve=approve)).model_dump(mode="json")

    async def ask_host(self, host_id: str, text: str, *, approve: bool = False) -> dict[str, Any]:
        """Ask the agent of another host. Returns the same as `ask`, and the `host_id`.

        Raises:
            UnknownHost: no host has that name.
            AnvylError: the host does not respond, or refuses.
        """
        service = await self.node.agent_service()
        return (await service.forwarding.ask(host_id, text, self.node.local_caller, approve=approve)).model_dump(
            mode="json"
        )

    async def approve(self, id_: str, *, yes: bool = True) -> dict[str, Any]:
        """Run the changes of a pending approval, or decline them if `yes` is false.

        Raises:
            NotFound, Gone: the approval does not exist, or was used or has expired.
            AnvylError: the changes failed.
        """
        service = await self.node.agent_service()
        return (await service.decide(id_, self.node.local_caller, approve=yes)).model_dump(mode="json")

    async def process_query(self, query: str) -> str:
        """Answer a question as text; an error is returned as text too."""
        try:
            answer = await self.ask(query)
        except AnvylError as error:
            return str(error)
        return str(answer["response"])

    async def query_remote_host(self, host_id: str, query: str) -> str:
        """Return the answer of another host as text; an error is returned as text too."""
        try:
            answer = await self.ask_host(host_id, query)
        except AnvylError as error:
            return str(error)
        return str(answer["response"])

    async def broadcast_to_all_hosts(self, message: str) -> list[dict[str, Any]]:
        """Ask every host, including this one. Each result is `{"host_id", "result"}`, with an `error` if it failed."""
        service = await self.node.agent_service()
        broadcast = await service.forwarding.broadcast(message, self.node.local_caller)
        return [result.model_dump(mode="json") for result in broadcast.results]

    def add_known_host(self, host_id: str, host_ip: str, port: int = DEFAULT_PORT) -> None:
        """Add a host. If it is another machine, nothing is sent to it until you pair it.

        Raises:
            InvalidInput: the name or the address is not valid.
            Conflict: another host has the name or the address.
        """
        fleet = self.node.fleet
        peer = new_peer(fleet, host_id, url_of(host_ip, port))
        known = fleet.registry.peers().get(peer.name)
        if known is None:
            fleet.registry.add(peer)
        elif known.url != peer.url:
            if known.paired:
                raise Conflict(
                    f"there is already a host `{known.name}` at {known.url}", hint="call remove_known_host first"
                )
            fleet.registry.replace(known.name, peer)

    def remove_known_host(self, host_id: str) -> None:
        """Remove a host. Our token stays valid there; `anvyl hosts remove` also revokes it.

        Raises:
            UnknownHost: no host has that name.
        """
        self.node.fleet.registry.remove(host_id)

    def get_known_hosts(self) -> dict[str, str]:
        """Return name and address of each known host."""
        return {name: urlsplit(peer.url).hostname or "" for name, peer in self.node.fleet.registry.peers().items()}

    async def aclose(self) -> None:
        """Close all connections. The next question opens new ones."""
        node, self._node = self._node, None
        if node is not None:
            await node.aclose()


class AgentManager:
    """Serve this host from inside a program, on the running event loop, without signal handlers."""

    def __init__(self, settings: Settings) -> None:
        self.agent = HostAgent(settings)
        self.urls: list[str] = []
        self._settings = settings
        self._serving: asyncio.Task[bool] | None = None
        self._stop: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Start the server and return when it accepts requests.

        Raises:
            Conflict: it is already running, or a port is in use.
            InvalidInput: this machine does not have the address.
        """
        if self._serving is not None:
            raise Conflict("this agent is already running", hint="call await manager.stop() first")
        await self.agent.aclose()
        ready = asyncio.Event()

        def on_ready(urls: list[str]) -> None:
            self.urls = urls
            ready.set()

        # Not a task group, because the server runs longer than this call, until `stop`.
        self._serving = asyncio.create_task(serve(self._settings, on_ready=on_ready, on_start=self._on_start))
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait({self._serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.stop()
            raise
        finally:
            waiting.cancel()
        if not ready.is_set():
            await self.stop()

    async def stop(self) -> None:
        """Stop the server after the running calls.

        Raises:
            AnvylError: the server had failed.
        """
        serving, self._serving = self._serving, None
        self._stop()
        if serving is not None:
            try:
                with anyio.CancelScope(shield=True):
                    await serving
            finally:
                # The server has closed the node; the next question creates a new one.
                self.agent._node = None
                self._stop, self.urls = lambda: None, []
        await self.agent.aclose()

    def _on_start(self, node: Node, stop: Callable[[], None]) -> None:
        self.agent._node = node
        self._stop = stop

    async def __aenter__(self) -> AgentManager:
        """Start the server."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the server."""
        await self.stop()


def create_agent_manager(
    lmstudio_url: str | None = None,
    lmstudio_model: str | None = None,
    port: int | None = None,
    *,
    name: str | None = None,
    host: str | None = None,
) -> AgentManager:
    """Create the manager of this host's agent. Omitted arguments come from the settings.

    Raises:
        InvalidInput, ConfigInvalid: a setting is not valid.
    """
    flags = {"lmstudio_url": lmstudio_url, "lmstudio_model": lmstudio_model, "name": name, "host": host}
    return AgentManager(load({**flags, "port": port, "agent_port": port}))
