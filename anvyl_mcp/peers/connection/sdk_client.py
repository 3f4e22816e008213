"""A connection through the official MCP client, for long-running programs (agent, gateway)."""

from __future__ import annotations

import asyncio
import contextvars
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Literal, TypeVar

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import (
    CONNECTION_CLOSED,
    UNSUPPORTED_PROTOCOL_VERSION,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    DiscoverRequest,
    DiscoverResult,
    EmptyResult,
    Implementation,
    PaginatedRequestParams,
    PingRequest,
)
from pydantic import BaseModel, ValidationError

from anvyl_mcp import __version__
from anvyl_mcp.core.errors import AnvylError, Unreachable
from anvyl_mcp.peers.connection import connection_errors, replies
from anvyl_mcp.peers.connection.http_connections import MOST_CONNECTIONS
from anvyl_mcp.peers.connection.listing import ProgressCallback, ToolAnswer, ToolListing
from anvyl_mcp.peers.connection.sdk_transport import SESSION_GONE, FaultIsolatingTransport
from anvyl_mcp.peers.connection.tls_pinning import NextPin, pinned_context

HANDSHAKE_SECONDS = connection_errors.CONNECT_SECONDS - 0.5
"""A little less than the connect timeout: a handshake that is cancelled instead of timing out leaks its socket."""
CLOSE_SECONDS = 1
IDLE_SECONDS = 4
"""Less than the 5 s after which common servers drop an idle connection: a call must not meet one being closed."""

_SELF = Implementation(name="anvyl", version=__version__)

ProtocolMode = Literal["auto", "legacy"]
T = TypeVar("T")


class SdkClient:
    """A connection to a URL, or to a server in this process. Connects on first use, and reconnects if needed."""

    def __init__(
        self,
        target: str | Server[Any],
        *,
        mode: ProtocolMode = "auto",
        pin: str = "",
        token: str = "",
        next_key: NextPin | None = None,
    ) -> None:
        self._client: Callable[[], AbstractAsyncContextManager[Client]] = (
            partial(_over_http, target, mode, _tls(target, pin, next_key), BearerAuth(token) if token else None)
            if isinstance(target, str)
            else partial(_in_process, target, mode)
        )
        self._link: Link | None = None
        self._closed = False

    async def list_tools(self) -> list[ToolListing]:
        """Return all pages of the host's tools."""
        tools: list[ToolListing] = []
        cursor: str | None = None
        with connection_errors.unknown_as_unreachable():
            for _ in range(replies.MOST_PAGES):
                ask = partial(ClientSession.list_tools, params=PaginatedRequestParams(cursor=cursor))
                page = await self._ask(ask, connection_errors.LISTING_SECONDS)
                tools += replies.listings(_as_wire(page))
                cursor = page.next_cursor
                if not cursor:
                    break
        return tools

    async def version(self) -> str:
        """Return the version that the host reports."""
        with connection_errors.unknown_as_unreachable():
            return await self._ask(_version, connection_errors.CONNECT_SECONDS)

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        seconds: float,
        meta: Mapping[str, Any] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> ToolAnswer:
        """Call one tool; a request that may have reached it is never sent twice."""
        params = CallToolRequestParams.model_validate(
            {"name": tool, "arguments": dict(arguments), "_meta": dict(meta) if meta else None}
        )
        # Not `Client.call_tool`: it validates the result against a listing, which it may fetch after the call; if that
        # fails, the result of a completed change is lost.
        ask = partial(
            ClientSession.send_request,
            request=CallToolRequest(params=params),
            result_type=CallToolResult,
            progress_callback=_monotonic(on_progress) if on_progress else None,
        )
        return replies.tool_answer(_as_wire(await self._ask(ask, seconds)))

    async def close(self) -> None:
        """Close the connection; calls under way fail as lost."""
        self._closed = True
        if self._link is not None:
            await self._link.close()

    async def _ask(self, ask: Callable[[ClientSession], Awaitable[T]], seconds: float, again: bool = True) -> T:
        link = await self._linked()
        try:
            with link.used(), anyio.fail_after(seconds):
                return await ask(link.session)
        except TimeoutError:
            # The next call reconnects, which fails within seconds instead of after the time limit of a tool.
            link.retire()
            raise connection_errors.timeout_error(seconds, sent=True) from None
        except ValidationError as error:
            raise connection_errors.malformed_reply() from error
        except MCPError as error:
            if error.code not in (SESSION_GONE, UNSUPPORTED_PROTOCOL_VERSION) or not again:
                raise _translated(error) from error
        # The host rejected the request unread: it no longer knows the session or the protocol version.
        link.retire()
        return await self._ask(ask, seconds, again=False)

    async def _linked(self) -> Link:
        """Return an open link; concurrent callers share one attempt to open it."""
        if self._closed:
            raise Unreachable("the connection is closed")
        if self._link is None or self._link.ended:
            self._link = Link(self._client)
        link = self._link
        await link.opened.wait()
        if link.failure is not None:
            raise link.failure
        return link


class Link:
    """An open client and the task that owns it: a client must be exited by the task that entered it."""

    session: ClientSession

    def __init__(self, client: Callable[[], AbstractAsyncContextManager[Client]]) -> None:
        self.opened = anyio.Event()
        self.failure: AnvylError | None = None
        self._client = client
        self._leave = anyio.Event()
        self._users = 0
        self._retired = False
        # Not in a task group: the link outlives the call that opens it, and must not inherit its context.
        self._owner = asyncio.create_task(self._own(), context=contextvars.Context())
        self._owner.add_done_callback(self._done)

    @property
    def ended(self) -> bool:
        """Whether the link accepts no more requests."""
        return self._retired or self._owner.done()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Mark a request as under way, so that a retired link closes after the last one."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._retired and not self._users:
                self._leave.set()

    def retire(self) -> None:
        """Accept no more requests; close after those under way."""
        self._retired = True
        if not self._users:
            self._leave.set()

    async def close(self) -> None:
        """Close at once."""
        self._retired = True
        self._leave.set()
        if not self.opened.is_set():
            self._owner.cancel()
        await asyncio.wait({self._owner})

    async def _own(self) -> None:
        try:
            with anyio.fail_after(connection_errors.CONNECT_SECONDS) as limit:
                async with self._client() as client:
                    limit.deadline = math.inf
                    self.session = client.session
                    self.opened.set()
                    await self._leave.wait()
                    limit.deadline = anyio.current_time() + CLOSE_SECONDS
        except* TimeoutError:
            self.failure = connection_errors.timeout_error(connection_errors.CONNECT_SECONDS, sent=False)
        except* (MCPError, ValidationError) as group:
            self.failure = _open_error(group)

    def _done(self, _: asyncio.Task[None]) -> None:
        self.failure = self.failure or Unreachable("the connection is closed")
        self.opened.set()


class BearerAuth(httpx2.Auth):
    """Adds a token to every request, and keeps it out of this object's repr."""

    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Add the header."""
        request.headers["Authorization"] = self._header
        yield request


@asynccontextmanager
async def _over_http(
    url: str, mode: ProtocolMode, tls: ssl.SSLContext | bool, auth: BearerAuth | None
) -> AsyncIterator[Client]:
    most = MOST_CONNECTIONS if url.startswith("https:") else None
    limits = httpx2.Limits(max_connections=most, keepalive_expiry=IDLE_SECONDS)
    # The MCP client does not close an HTTP client that it was given. Proxies of the environment are not for hosts.
    http = httpx2.AsyncClient(
        transport=FaultIsolatingTransport(verify=tls, limits=limits, trust_env=False),
        auth=auth,
        timeout=httpx2.Timeout(None, connect=HANDSHAKE_SECONDS),
        trust_env=False,
    )
    async with http:
        streams = streamable_http_client(url, http_client=http, max_sse_event_size=connection_errors.MOST_BYTES)
        async with Client(streams, mode=mode, cache=None, client_info=_SELF) as client:
            yield client


async def _version(session: ClientSession) -> str:
    if session.initialize_result is not None:
        await session.send_request(PingRequest(), EmptyResult)
        return session.initialize_result.server_info.version
    return replies.version(_as_wire(await session.send_request(DiscoverRequest(), DiscoverResult)))


def _in_process(server: Server[Any], mode: ProtocolMode) -> Client:
    return Client(server, mode=mode, cache=None, client_info=_SELF)


def _tls(url: str, pin: str, next_key: NextPin | None) -> ssl.SSLContext | bool:
    """Return the TLS verification to use; plain HTTP skips loading the system certificates, which takes 30 ms."""
    if pin:
        return pinned_context([pin], next_key)
    return url.startswith("https:") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _monotonic(on_progress: ProgressCallback) -> ProgressFnT:
    """Drop progress that goes backwards: the client may deliver it out of order."""
    latest = -math.inf

    async def relay(progress: float, total: float | None, message: str | None) -> None:
        nonlocal latest
        if progress > latest:
            latest = progress
            on_progress(progress, total, message or "")

    return relay


def _as_wire(reply: BaseModel) -> dict[str, Any]:
    return reply.model_dump(by_alias=True, mode="json", exclude_none=True)


def _translated(error: MCPError) -> AnvylError:
    return (
        connection_errors.connection_lost()
        if error.code == CONNECTION_CLOSED
        else connection_errors.from_rpc(error.error.model_dump())
    )


def _open_error(group: BaseExceptionGroup[MCPError | ValidationError]) -> AnvylError:
    """Return the error of a link that could not be opened: the first leaf of the group."""
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    try:
        with connection_errors.unknown_as_unreachable():
            raise _translated(leaf) if isinstance(leaf, MCPError) else connection_errors.malformed_reply()
    except AnvylError as error:
        return error
