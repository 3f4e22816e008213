"""The HTTP face of a node in this process, as callers with different rights meet it; and hosts that are none of ours.

PYTEST_DONT_REWRITE: as a plugin that tests import too, pytest would warn of this module otherwise.
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
CALLERS = ("nobody", *SCOPES)


async def nowhere(address: str) -> list[str]:
    return []


@dataclass
class Door:
    """One node's application; `to(caller)` is a client over TLS with a token of that scope, or none."""

    node: Node
    app: Any
    tokens: dict[str, str]

    def to(self, caller: str) -> httpx.AsyncClient:
        """A client."""
        headers = {"Authorization": f"Bearer {self.tokens[caller]}"} if caller in self.tokens else {}
        transport = httpx.ASGITransport(self.app, client=("192.0.2.9", 1))
        return httpx.AsyncClient(transport=transport, base_url="https://127.0.0.1", headers=headers, timeout=60)

    async def ask(self, caller: str, path: str, body: Any = None, *, method: str = "POST") -> httpx.Response:
        """One request."""
        async with self.to(caller) as client:
            return await client.request(method, path, json=body)


@asynccontextmanager
async def opened_door(tokens: dict[str, str] | None = None, *, relay: bool = True) -> AsyncIterator[Door]:
    """A node with the settings of the environment; with the tokens of an earlier one it is that one, started again.

    `relay`: its agent asks other hosts for the callers.
    """
    node = Node(load(), serving=True)
    try:
        app = node.http_app(lambda: "http://127.0.0.1:4200", nowhere)
        made = {one: node.state.create_token(one, one, None, relay=relay)[1] for one in SCOPES if tokens is None}
        yield Door(node, app, tokens or made)
    finally:
        await node.aclose()


@pytest.fixture
async def door(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    """A node that no caller asks too often."""
    monkeypatch.setattr(limits, "PER_SECOND", dict.fromkeys(SCOPES, 1e6))
    async with opened_door() as opened:
        yield opened


def response(status: str, body: bytes, kind: str = "application/json") -> bytes:
    """An HTTP response."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


@dataclass
class OtherAgent:
    """Something that listens where a host is expected: it sends `answer`, or nothing until its client hangs up."""

    answer: bytes = b""
    asked: anyio.Event = field(default_factory=anyio.Event)
    left: anyio.Event = field(default_factory=anyio.Event)
    requests: list[str] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((line for line in head.decode().lower().splitlines() if line.startswith("content-length:")), ":0")
        body = await reader.readexactly(int(length.partition(":")[2]))
        self.requests.append((head + body).decode())
        self.asked.set()
        if self.answer:
            writer.write(self.answer)
        else:
            await reader.read()
        self.left.set()
        writer.close()


@pytest.fixture
async def other() -> AsyncIterator[OtherAgent]:
    """Something else on a port of this machine."""
    agent = OtherAgent()
    server = await asyncio.start_server(agent.serve, "127.0.0.1", 0)
    agent.port = server.sockets[0].getsockname()[1]
    async with server:
        yield agent
