"""A lean MCP client: protocol 2026-07-28 on the standard library, one POST per call.

For commands, which cannot afford the second that importing the SDK takes.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from http.client import HTTPException, HTTPResponse, IncompleteRead
from itertools import count
from typing import Any

import anyio
from anyio import from_thread, to_thread

from anvyl_mcp import __version__
from anvyl_mcp.core.errors import HOST_FAILURES, AnvylError, Timeout
from anvyl_mcp.peers.connection import connection_errors, replies
from anvyl_mcp.peers.connection.http_connections import MOST_CONNECTIONS, AbortableConnection, ConnectionPool
from anvyl_mcp.peers.connection.listing import ProgressCallback, ToolAnswer, ToolListing, error_in_meta
from anvyl_mcp.peers.connection.single_flight import SingleFlight
from anvyl_mcp.peers.connection.tls_pinning import NextPin, pinned_context

PROTOCOL = "2026-07-28"
THREADS = 64
"""Concurrent calls to a host on this machine; each blocks a thread and has its own connection."""

_ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": PROTOCOL,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "anvyl", "version": __version__},
}
_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "User-Agent": f"anvyl/{__version__}",
    "MCP-Protocol-Version": PROTOCOL,
}


class LeanClient:
    """A connection to a host over HTTP, for short-lived programs."""

    def __init__(
        self,
        url: str,
        *,
        context: ssl.SSLContext | None = None,
        pin: str = "",
        token: str = "",
        next_key: NextPin | None = None,
    ) -> None:
        endpoint = url.rstrip("/").removesuffix("/mcp") + "/mcp"
        self._pool = ConnectionPool(
            endpoint, pinned_context([pin], next_key) if pin else context, connection_errors.CONNECT_SECONDS
        )
        self._credentials = {"Authorization": f"Bearer {token}"} if token else {}
        self._ids = count(1)
        self._threads = anyio.CapacityLimiter(MOST_CONNECTIONS if pin else THREADS)
        self._checked = False
        self._first_check = SingleFlight()

    async def list_tools(self) -> list[ToolListing]:
        """Return all pages of the host's tools."""
        await self._check_host()
        tools: list[ToolListing] = []
        params: dict[str, Any] = {}
        with connection_errors.unknown_as_unreachable():
            for _ in range(replies.MOST_PAGES):
                page = _result(await self._request("tools/list", params, connection_errors.LISTING_SECONDS))
                tools += replies.listings(page)
                if not page.get("nextCursor"):
                    break
                params = {"cursor": page["nextCursor"]}
        return tools

    async def version(self) -> str:
        """Return the version that the host reports."""
        return replies.version(await self._discover())

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        seconds: float,
        meta: Mapping[str, Any] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> ToolAnswer:
        """Call one tool; the request is never sent twice."""
        await self._check_host()
        params = {"name": tool, "arguments": dict(arguments), "_meta": dict(meta or {})}
        return replies.tool_answer(_result(await self._request("tools/call", params, seconds, on_progress)))

    async def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    async def _check_host(self) -> None:
        """Send a cheap request first, so that a host that hangs fails fast and never holds a change."""
        if not self._checked:
            await self._first_check.do(self._discover)

    async def _discover(self) -> dict[str, Any]:
        with connection_errors.unknown_as_unreachable():
            try:
                message = await self._request("server/discover", {}, connection_errors.CONNECT_SECONDS)
            except Timeout as error:
                raise connection_errors.timeout_error(connection_errors.CONNECT_SECONDS, sent=False) from error
            refusal = message.get("error")
            if isinstance(refusal, dict) and refusal.get("code") != connection_errors.METHOD_NOT_FOUND:
                raise error_in_meta(refusal.get("data")) or connection_errors.version_mismatch(
                    str(refusal.get("message"))
                )
            self._checked = True
            return {} if refusal else _result(message)

    async def _request(
        self, method: str, params: Mapping[str, Any], seconds: float, on_progress: ProgressCallback | None = None
    ) -> dict[str, Any]:
        request = LeanRequest(self._pool, next(self._ids), method, params, on_progress, self._credentials)
        try:
            with anyio.fail_after(seconds):
                return await to_thread.run_sync(request.run, abandon_on_cancel=True, limiter=self._threads)
        except TimeoutError:
            self._checked = False
            raise connection_errors.timeout_error(seconds, sent=request.sent) from None
        except HOST_FAILURES:
            self._checked = False
            raise
        finally:
            request.abort()


class LeanRequest:
    """One request and its answer, run on a thread; `abort` closes the connection from another thread."""

    def __init__(
        self,
        pool: ConnectionPool,
        number: int,
        method: str,
        params: Mapping[str, Any],
        on_progress: ProgressCallback | None,
        credentials: Mapping[str, str],
    ) -> None:
        self.sent = False
        self._pool = pool
        self._number = number
        self._method = method
        self._params = params
        self._on_progress = on_progress
        self._credentials = credentials
        self._lock = threading.Lock()
        self._aborted = False
        self._connection: AbortableConnection | None = None

    def run(self) -> dict[str, Any]:
        """Send the request and wait for its JSON-RPC answer.

        Raises:
            AnvylError: the request failed.
        """
        connection = self._pool.take()
        whole = False
        try:
            self._hold(connection)
            connection.connect()
            self.sent = True
            with connection.post(self._body(), self._headers()) as response:
                message = self._read(response)
                whole = response.isclosed()
        except (OSError, HTTPException, ValueError, RecursionError) as error:
            raise self._translated(error) from error
        finally:
            self._hold(None)
            if whole:
                self._pool.give(connection)
            else:
                connection.close()
        return message

    def abort(self) -> None:
        """Close the connection while the thread waits on it; does nothing after the answer."""
        with self._lock:
            self._aborted = True
            if self._connection is not None:
                self._connection.abort()

    def _hold(self, connection: AbortableConnection | None) -> None:
        with self._lock:
            if connection is not None and self._aborted:
                raise ConnectionAbortedError
            self._connection = connection

    def _translated(self, error: Exception) -> AnvylError:
        if not self.sent:
            return connection_errors.connect_error(error)
        return (
            connection_errors.connection_lost()
            if isinstance(error, OSError | IncompleteRead)
            else connection_errors.malformed_reply()
        )

    def _body(self) -> bytes:
        meta = {**self._params.get("_meta", {}), **_ENVELOPE}
        if self._on_progress is not None:
            meta["progressToken"] = self._number
        params = {**self._params, "_meta": meta}
        return json.dumps({"jsonrpc": "2.0", "id": self._number, "method": self._method, "params": params}).encode()

    def _headers(self) -> dict[str, str]:
        headers = {**_HEADERS, **self._credentials, "Mcp-Method": self._method}
        if "name" in self._params:
            headers["Mcp-Name"] = header_value(self._params["name"])
        return headers

    def _read(self, response: HTTPResponse) -> dict[str, Any]:
        kind = response.headers.get_content_type()
        if response.status == 200 and kind == "text/event-stream":
            return self._final_message(_stream_messages(response))
        body = _read_body(response)
        message = replies.message_in(kind, body)
        if message is not None:
            return message
        if response.status == 200:
            raise connection_errors.malformed_reply()
        raise connection_errors.from_status(response.status, kind, body, self._pool.url)

    def _final_message(self, events: Iterator[Any]) -> dict[str, Any]:
        """Return the answer at the end of a stream, and report the progress before it."""
        for event in events:
            if not isinstance(event, dict):
                raise connection_errors.malformed_reply()
            if event.get("id") == self._number and "method" not in event:
                return event
            if event.get("method") == "notifications/progress" and isinstance(event.get("params"), dict):
                self._report_progress(event["params"])
        raise connection_errors.connection_lost()

    def _report_progress(self, params: Mapping[str, Any]) -> None:
        progress, total, message = params.get("progress"), params.get("total"), params.get("message")
        if self._on_progress is None or not isinstance(progress, int | float):
            return
        from_thread.run_sync(
            self._deliver_progress,
            float(progress),
            float(total) if isinstance(total, int | float) else None,
            message if isinstance(message, str) else "",
        )

    def _deliver_progress(self, progress: float, total: float | None, message: str) -> None:
        if self._on_progress is not None and not self._aborted:
            self._on_progress(progress, total, message)


def header_value(value: str) -> str:
    """Encode `value` for the `Mcp-Name` header: unchanged if it is plain ASCII, else in base64."""
    plain = value.isascii() and value.isprintable() and value == value.strip()
    if plain and not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode('ascii')}?="


def _result(message: Mapping[str, Any]) -> dict[str, Any]:
    if "error" in message:
        raise connection_errors.from_rpc(message["error"])
    result = message.get("result")
    if not isinstance(result, dict):
        raise connection_errors.malformed_reply()
    return result


def _read_body(response: HTTPResponse) -> bytes:
    """Return the body; a known length is read in one go, so that a truncated body is noticed."""
    if response.length is not None and response.length > connection_errors.MOST_BYTES:
        raise connection_errors.too_large()
    body = response.read(None if response.length is not None else connection_errors.MOST_BYTES + 1)
    if len(body) > connection_errors.MOST_BYTES:
        raise connection_errors.too_large()
    return body


def _stream_messages(response: HTTPResponse) -> Iterator[Any]:
    """Yield the messages of an event stream, skipping comment lines (keep-alives)."""
    data: list[str] = []
    read = 0
    while line := response.readline(connection_errors.MOST_BYTES + 1):
        read += len(line)
        if read > connection_errors.MOST_BYTES:
            raise connection_errors.too_large()
        content = line.decode().rstrip("\r\n")
        if content.startswith("data:"):
            data.append(content[5:].removeprefix(" "))
        elif not content and data:
            yield json.loads("\n".join(data))
            data.clear()
