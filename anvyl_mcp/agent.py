"""The older Python door: a host's agent inside your own program.

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
    """The agent of this host. It works whether it is served or not; `aclose` lets go of its connections.

    The methods of the older design answer with words in any case; `ask`, `ask_host` and `approve` raise what goes
    wrong, and return all that is known.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or load()
        self._node: Node | None = None

    @property
    def node(self) -> Node:
        """What it acts with."""
        if self._node is None:
            self._node = Node(self._settings)
        return self._node

    @property
    def host_id(self) -> str:
        """This host's name in the fleet."""
        return self.node.local.name

    async def ask(self, text: str, *, approve: bool = False) -> dict[str, Any]:
        """Answer a question: `{"response", "calls", "mode", "model", …}`, with an `approval` when a change waits.

        Raises:
            AnvylError: there is no answer.
        """
        service = await self.node.agent_service()
        return (await service.process(text, self.node.me, approve=approve)).model_dump(mode="json")

    async def ask_host(self, host_id: str, text: str, *, approve: bool = False) -> dict[str, Any]:
        """Have another host's agent answer; as `ask`, with its `host_id`.

        Raises:
            UnknownHost: there is none of that name.
            AnvylError: it does not answer, or refuses.
        """
        service = await self.node.agent_service()
        return (await service.forwarding.ask(host_id, text, self.node.me, approve=approve)).model_dump(mode="json")

    async def approve(self, id_: str, *, yes: bool = True) -> dict[str, Any]:
        """Have what waits under an approval's id done, or end it.

        Raises:
            NotFound, Gone: nothing waits there, or not any more.
            AnvylError: it could not be done.
        """
        service = await self.node.agent_service()
        return (await service.decide(id_, self.node.me, approve=yes)).model_dump(mode="json")

    async def process_query(self, query: str) -> str:
        """Answer a question in words; why there is no answer, otherwise."""
        try:
            answer = await self.ask(query)
        except AnvylError as error:
            return str(error)
        return str(answer["response"])

    async def query_remote_host(self, host_id: str, query: str) -> str:
        """Another host's answer in words; why there is none, otherwise."""
        try:
            answer = await self.ask_host(host_id, query)
        except AnvylError as error:
            return str(error)
        return str(answer["response"])

    async def broadcast_to_all_hosts(self, message: str) -> list[dict[str, Any]]:
        """Every host's answer, this one's too: `{"host_id", "result"}`; one that failed has its `error` too."""
        service = await self.node.agent_service()
        return [
            result.model_dump(mode="json")
            for result in (await service.forwarding.broadcast(message, self.node.me)).results
        ]

    def add_known_host(self, host_id: str, host_ip: str, port: int = DEFAULT_PORT) -> None:
        """Know a host from now on. Outside this machine it is unpaired, and nothing is sent to it, until it is paired.

        Raises:
            InvalidInput: the name or the address cannot be used.
            Conflict: the name or the address is another's.
        """
        fleet = self.node.fleet
        peer = new_peer(fleet, host_id, url_of(host_ip, port))
        known = fleet.registry.peers().get(peer.name)
        if known is None:
            fleet.registry.add(peer)
        elif known.url != peer.url:
            if known.paired:
                raise Conflict(
                    f"there is a host `{known.name}` already, at {known.url}", hint="remove_known_host comes first"
                )
            fleet.registry.replace(known.name, peer)

    def remove_known_host(self, host_id: str) -> None:
        """Forget a host. It keeps our token: `anvyl hosts remove` has it revoked there too.

        Raises:
            UnknownHost: there is none of that name.
        """
        self.node.fleet.registry.remove(host_id)

    def get_known_hosts(self) -> dict[str, str]:
        """The known hosts' names, with their addresses."""
        return {name: urlsplit(peer.url).hostname or "" for name, peer in self.node.fleet.registry.peers().items()}

    async def aclose(self) -> None:
        """Let go of connections; the next question makes new ones."""
        node, self._node = self._node, None
        if node is not None:
            await node.aclose()


class AgentManager:
    """Serves this host from inside a program, in the event loop that runs, and leaves its signals alone."""

    def __init__(self, settings: Settings) -> None:
        self.agent = HostAgent(settings)
        self.urls: list[str] = []
        self._settings = settings
        self._serving: asyncio.Task[bool] | None = None
        self._stop: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Serve until stopped; return when requests are answered.

        Raises:
            Conflict: it serves already, or a port is in use.
            InvalidInput: the address is not one of this machine's.
        """
        if self._serving is not None:
            raise Conflict("this agent is served already", hint="await manager.stop() comes first")
        await self.agent.aclose()
        ready = asyncio.Event()

        def on_ready(urls: list[str]) -> None:
            self.urls = urls
            ready.set()

        # No task group fits: it is served until `stop`, beyond the call that starts it.
        self._serving = asyncio.create_task(serve(self._settings, on_ready=on_ready, on_start=self._started))
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
        """Let running calls finish, and serve no more.

        Raises:
            AnvylError: why it could not be served.
        """
        serving, self._serving = self._serving, None
        self._stop()
        if serving is not None:
            try:
                with anyio.CancelScope(shield=True):
                    await serving
            finally:
                # The node is closed with its server; questions are answered by a new one.
                self.agent._node = None
                self._stop, self.urls = lambda: None, []
        await self.agent.aclose()

    def _started(self, node: Node, stop: Callable[[], None]) -> None:
        self.agent._node = node
        self._stop = stop

    async def __aenter__(self) -> AgentManager:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()


def create_agent_manager(
    lmstudio_url: str | None = None,
    lmstudio_model: str | None = None,
    port: int | None = None,
    *,
    name: str | None = None,
    host: str | None = None,
) -> AgentManager:
    """Make an agent for this host; what is left out comes from the settings.

    Raises:
        InvalidInput, ConfigInvalid: a setting cannot be used.
    """
    flags = {"lmstudio_url": lmstudio_url, "lmstudio_model": lmstudio_model, "name": name, "host": host}
    return AgentManager(load({**flags, "port": port, "agent_port": port}))
