"""Serve this host: over HTTP until stopped, or over stdio to the process that started this one."""

from __future__ import annotations

import signal
from collections.abc import Callable

from anvyl_mcp import __version__
from anvyl_mcp.app.background import Beside
from anvyl_mcp.app.catalogue import every_tool
from anvyl_mcp.app.node import Node
from anvyl_mcp.core import serve_lock
from anvyl_mcp.core.settings import Settings


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
    from anvyl_mcp.server.http import listener
    from anvyl_mcp.server.policy import explain

    node = Node(settings, serving=True)
    beside = Beside(node.fleet, settings)
    kept = node.state
    kept.on_joined = on_joined
    with serve_lock.claim(settings.run_dir) as announced:
        sockets = listener.listen(
            settings.host or kept.open_address or "127.0.0.1", [settings.port, settings.agent_port]
        )
        plain = [listener.url_of(one) for one in sockets if listener.is_plain(one)]

        def announce(network: list[str]) -> None:
            serve_lock.write_server_file(
                announced, name=node.local.name, url=plain[0], version=__version__, network=network
            )
            beside.opened(network)

        async def open_network(address: str) -> list[str]:
            before = server.network_urls
            urls = await server.open(address)
            kept.save_open_address(address)
            announce(urls)
            on_open([url for url in urls if url not in before])
            return urls

        def ready() -> None:
            announce(server.network_urls)
            node.fleet.served_at = plain[0]
            on_ready([url for url in plain if "[" not in url] + server.network_urls)
            explain.log_problems(node.policy, every_tool())

        app = node.http_app(lambda: plain[0], open_network)
        mine = on_start is None
        server = listener.make_server(app, node.server, on_ready=ready, identity=kept.identity, signals=mine)
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
    from anvyl_mcp.server.policy import explain
    from anvyl_mcp.server.protocol.message_check import stdio

    node = Node(settings, serving=True)
    server = node.server
    explain.log_problems(node.policy, every_tool())
    try:
        async with stdio() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
    finally:
        await node.aclose()
