"""Serve this host over HTTP, or over stdio to the parent process."""

from __future__ import annotations

import signal
from collections.abc import Callable

from anvyl_mcp import __version__
from anvyl_mcp.app import readiness
from anvyl_mcp.app.background import BackgroundTasks
from anvyl_mcp.app.catalogue import served_tools
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
    """Serve this host over HTTP, until stopped. Returns whether Ctrl-C stopped it.

    `on_ready` gets the URLs; `on_open` the additional URLs after an invitation opened the network; `on_joined` each
    machine that pairs; `on_start` the node and a function that stops the server. With `on_start`, signals are left to
    the caller.

    Raises:
        Conflict: a port is in use, or the server of this installation is already running.
        InvalidInput: this machine does not have the address.
        ConfigInvalid: a setting needs a package that is not installed.
    """
    from anvyl_mcp.server.http import listener
    from anvyl_mcp.server.policy import explain

    node = Node(settings, serving=True)
    background = BackgroundTasks(node.fleet, settings, [node.tend_updates])
    state = node.state
    state.further_checks |= background.checks
    state.on_joined = on_joined
    with serve_lock.claim(settings.run_dir) as server_file:
        sockets = listener.listen(
            settings.host or state.open_address or "127.0.0.1", [settings.port, settings.agent_port]
        )
        plain = [listener.url_of(one) for one in sockets if listener.is_plain(one)]

        def announce(network: list[str]) -> None:
            serve_lock.write_server_file(
                server_file, name=node.local.name, url=plain[0], version=__version__, network=network
            )
            background.set_network_urls(network)

        async def open_network(address: str) -> list[str]:
            before = server.network_urls
            urls = await server.open(address)
            state.save_open_address(address)
            announce(urls)
            on_open([url for url in urls if url not in before])
            return urls

        def ready() -> None:
            announce(server.network_urls)
            node.fleet.served_at = plain[0]
            readiness.notify("READY=1", f"STATUS=serving {settings.name} at {plain[0]}")
            on_ready([url for url in plain if "[" not in url] + server.network_urls)
            explain.log_problems(node.policy, served_tools())

        app = node.http_app(lambda: plain[0], open_network)
        own_signals = on_start is None
        server = listener.make_server(
            app, node.server, on_ready=ready, identity=state.identity, signals=own_signals, on_stop=node.end_streams
        )
        if on_start is not None:
            on_start(node, server.stop)
        state.audit.open()
        state.journal.open()
        try:
            async with background.run(node.recorder()):
                await server.serve(sockets)
        finally:
            readiness.notify("STOPPING=1")
            await node.aclose()
            for one in sockets:
                one.close()
    return server.stopped_by == signal.SIGINT


async def serve_stdio(settings: Settings) -> None:
    """Serve this host over stdin and stdout, until stdin is closed."""
    from anvyl_mcp.server.policy import explain
    from anvyl_mcp.server.protocol.message_check import stdio

    node = Node(settings, serving=True)
    server = node.server
    explain.log_problems(node.policy, served_tools())
    try:
        async with stdio() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
    finally:
        await node.aclose()
