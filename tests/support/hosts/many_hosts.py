"""Many hosts in one process, over TLS: `python -m tests.support.hosts.many_hosts COUNT`, each at its own address.

It prints one JSON document, `{"plain", "urls", "pin", "token"}`, when it serves, and ends when its input does. What one
caller may ask a second is not limited: all of them are the same host. `echo(text)` is a tool beside the others.
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


class Said(tool.Result):
    """What was said."""

    said: str


@tool.tool(toolset="containers")
async def echo(text: str) -> Said:
    """Say it again."""
    return Said(said=text)


def hosts_file(urls: list[str], pin: str, token: str) -> str:
    """The hosts file of who knows them all, `host-1` and so on."""
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
    network = [listening(f"127.1.{number // 250}.{number % 250 + 1}") for number in range(count)]
    plain = listening("127.0.0.1")
    state = node.state
    _, token = state.create_token("caller", SCOPES, None)
    state.audit.open()
    state.journal.open()

    async def never(_: str) -> NoReturn:
        raise AnvylError("this host is not opened further")

    def ready() -> None:
        told = {
            "plain": listener.url_of(plain),
            "urls": [listener.url_of(one) for one in network],
            "pin": state.identity().pin,
            "token": token,
            "home": str(Path(node.settings.state_dir)),
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()

    app = node.http_app(lambda: listener.url_of(plain), never)
    server = listener.server(app, node.server, on_ready=ready, identity=state.identity)

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


def listening(address: str) -> socket.socket:
    """A listener on a free port. Named TCP, because asyncio turns Nagle's wait off only for those."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    opened.bind((address, 0))
    opened.listen(256)
    return opened


if __name__ == "__main__":
    main(int(sys.argv[1]))
