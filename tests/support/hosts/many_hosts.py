"""Many hosts in one process, over TLS: `python -m tests.support.hosts.many_hosts COUNT`, each at its own address.

It prints one JSON document, `{"plain", "urls", "pin", "token", "home"}`, when it serves, and stops at the end of its
input. There is no rate limit per caller, because all hosts are one. It has one more tool, `echo(text)`.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from pathlib import Path
from typing import NoReturn

import anyio

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.core.settings import load
from anvyl_mcp.server import tool, toolsets
from anvyl_mcp.server.auth import limits
from anvyl_mcp.server.http import listener

SCOPES = "read,operate,exec"


class Echoed(tool.Result):
    """Result of `echo`."""

    said: str


@tool.tool(toolset="containers")
async def echo(text: str) -> Echoed:
    """Return the text."""
    return Echoed(said=text)


def hosts_file(urls: list[str], pin: str, token: str) -> str:
    """Hosts file with all of them: `host-1`, `host-2` and so on."""
    entries = (
        f'[hosts.host-{number}]\nurl = "{url}"\npin = "{pin}"\ntoken = "{token}"\n'
        for number, url in enumerate(urls, start=1)
    )
    return "\n".join(entries)


def main(count: int) -> None:
    limits.PER_SECOND = dict.fromkeys(limits.PER_SECOND, 1e9)
    declared = toolsets.load_tools
    toolsets.load_tools = lambda: [*declared(), echo]
    anyio.run(serve, count)


async def serve(count: int) -> None:
    node = Node(load({"name": "many"}), serving=True)
    network = [open_listener(f"127.1.{number // 250}.{number % 250 + 1}") for number in range(count)]
    plain = open_listener("127.0.0.1")
    state = node.state
    _, token = state.create_token("caller", SCOPES, None)
    state.audit.open()
    state.journal.open()

    async def never(_: str) -> NoReturn:
        raise AnvylError("this host opens no further port")

    def ready() -> None:
        document = {
            "plain": listener.url_of(plain),
            "urls": [listener.url_of(one) for one in network],
            "pin": state.identity().pin,
            "token": token,
            "home": str(Path(node.settings.state_dir)),
        }
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()

    app = node.http_app(lambda: listener.url_of(plain), never)
    server = listener.make_server(app, node.server, on_ready=ready, identity=state.identity)

    def until_input_ends() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=until_input_ends, daemon=True).start()
    try:
        await server.serve([*network, plain])
    finally:
        await node.aclose()
        for one in (*network, plain):
            one.close()


def open_listener(address: str) -> socket.socket:
    """Listen on a free port. With IPPROTO_TCP, because asyncio turns off Nagle only for such sockets."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    opened.bind((address, 0))
    opened.listen(256)
    return opened


if __name__ == "__main__":
    main(int(sys.argv[1]))
