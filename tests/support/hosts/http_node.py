"""In-process HTTP clients for a node, one per scope, and a fake peer that is not an Anvyl host.

PYTEST_DONT_REWRITE: tests import this plugin too, and pytest would warn about that otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import pytest

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.auth import limits

SCOPES = ("read", "operate", "exec")
CALLERS = ("anonymous", *SCOPES)


async def no_addresses(address: str) -> list[str]:
    return []


@dataclass
class HttpNode:
    """A node's HTTP application; `client(caller)` sends the token of that scope, or none for `anonymous`."""

    node: Node
    app: Any
    tokens: dict[str, str]

    def client(self, caller: str) -> httpx.AsyncClient:
        """HTTP client of that caller."""
        headers = {"Authorization": f"Bearer {self.tokens[caller]}"} if caller in self.tokens else {}
        transport = httpx.ASGITransport(self.app, client=("192.0.2.9", 1))
        return httpx.AsyncClient(transport=transport, base_url="https://127.0.0.1", headers=headers, timeout=60)

    async def request(self, caller: str, path: str, body: Any = None, *, method: str = "POST") -> httpx.Response:
        """Send one request and return the response."""
        async with self.client(caller) as client:
            return await client.request(method, path, json=body)


@asynccontextmanager
async def open_http_node(tokens: dict[str, str] | None = None, *, relay: bool = True) -> AsyncIterator[HttpNode]:
    """Run a node with the settings of the environment; pass the tokens of an earlier one to simulate a restart.

    `relay`: whether its tokens may reach other hosts through it.
    """
    node = Node(load(), serving=True)
    try:
        app = node.http_app(lambda: "http://127.0.0.1:4200", no_addresses)
        made = {one: node.state.create_token(one, one, None, relay=relay)[1] for one in SCOPES if tokens is None}
        yield HttpNode(node, app, tokens or made)
    finally:
        await node.aclose()


@pytest.fixture
async def http_node(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpNode]:
    """A node without rate limits."""
    monkeypatch.setattr(limits, "PER_SECOND", dict.fromkeys(SCOPES, 1e6))
    async with open_http_node() as opened:
        yield opened


def response(status: str, body: bytes, kind: str = "application/json") -> bytes:
    """Serialize an HTTP response."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


@dataclass
class FakePeer:
    """Server in the place of a host: it sends `response`, or nothing until the client hangs up."""

    response: bytes = b""
    requested: anyio.Event = field(default_factory=anyio.Event)
    disconnected: anyio.Event = field(default_factory=anyio.Event)
    requests: list[str] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((line for line in head.decode().lower().splitlines() if line.startswith("content-length:")), ":0")
        body = await reader.readexactly(int(length.partition(":")[2]))
        self.requests.append((head + body).decode())
        self.requested.set()
        if self.response:
            writer.write(self.response)
        else:
            await reader.read()
        self.disconnected.set()
        writer.close()


@pytest.fixture
async def fake_peer() -> AsyncIterator[FakePeer]:
    """A `FakePeer` on a loopback port."""
    peer = FakePeer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    async with server:
        yield peer
