"""Validation of JSON-RPC messages before the MCP SDK, which drops some malformed ones without a response."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import TextIOWrapper
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anvyl_mcp.core.text import format_value

log = logging.getLogger(__name__)

BYTE_ORDER_MARK = "\ufeff"
DRAIN_SECONDS = 1.0
"""Time for requests to be answered after the input has ended; the SDK would drop their answers at once."""
NOT_AN_ID = "the id of a request must be a string or a whole number"
NOT_A_MESSAGE = "this is not a JSON-RPC 2.0 message"
NOT_JSON = "this is not JSON"
NO_BATCHES = "send one message per request: batches are not supported"
EMPTY_BATCH = "a batch must contain at least one message"


def message_error(message: Any) -> JSONRPCError | None:
    """Return the error for a message that the SDK would not answer, or None if the SDK can handle it."""
    if not isinstance(message, dict):
        return _error(INVALID_REQUEST, NOT_A_MESSAGE)
    request_id = message.get("id")
    if "id" in message and "method" in message and type(request_id) not in (str, int):
        return _error(INVALID_REQUEST, NOT_AN_ID)
    try:
        # Validated as text, which also detects lone surrogates, for which the SDK drops a message.
        jsonrpc_message_adapter.validate_json(json.dumps(message), by_name=False)
    except ValidationError:
        return _error(INVALID_REQUEST, NOT_A_MESSAGE, request_id if type(request_id) in (str, int) else None)
    return None


def _error(code: int, text: str, request_id: str | int | None = None) -> JSONRPCError:
    return JSONRPCError(jsonrpc="2.0", id=request_id, error=ErrorData(code=code, message=text))


class MessageCheck:
    """Middleware of `/mcp`: rejects malformed messages, and lets a client reconnect with an expired session id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or reject it."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = b""
        while True:
            part = await receive()
            if part["type"] == "http.disconnect":
                return
            body += part.get("body", b"")
            if not part.get("more_body", False):
                break
        body = body.removeprefix(BYTE_ORDER_MARK.encode())
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            error: JSONRPCError | None = _error(PARSE_ERROR, NOT_JSON)
        else:
            error = _error(INVALID_REQUEST, NO_BATCHES) if isinstance(message, list) else message_error(message)
        if error is not None:
            answer = error.model_dump_json(by_alias=True, exclude_unset=True)
            await Response(answer, 400, media_type="application/json")(scope, receive, send)
            return
        if message.get("method") == "initialize":
            scope = _without_session(scope)
        await self._app(scope, _replay(body, receive), send)


def _without_session(scope: Scope) -> Scope:
    """Drop the session header: some clients still send an expired session id when they initialize a new one."""
    name = MCP_SESSION_ID_HEADER.lower().encode()
    return {**scope, "headers": [header for header in scope["headers"] if header[0].lower() != name]}


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the body that was read, then further messages."""
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


Incoming = MemoryObjectReceiveStream[SessionMessage | Exception]
Outgoing = MemoryObjectSendStream[SessionMessage]


class MessageLines:
    """Iterates over the valid messages on an input, one per line; answers and logs malformed ones itself."""

    def __init__(self, source: anyio.AsyncFile[str]) -> None:
        self._source = source
        self._pending: list[str] = []
        self._outgoing: Outgoing | None = None
        self._ready = anyio.Event()
        self._unanswered: set[object] = set()
        self._answered = anyio.Event()

    def answer_on(self, outgoing: Outgoing) -> None:
        """Set the stream for errors."""
        self._outgoing = outgoing
        self._ready.set()

    async def forward(self, answers: MemoryObjectReceiveStream[SessionMessage], outgoing: Outgoing) -> None:
        """Pass on what the server sends, and note which requests are answered."""
        async with answers, outgoing:
            async for message in answers:
                await outgoing.send(message)
                if isinstance(message.message, JSONRPCResponse | JSONRPCError):
                    self._unanswered.discard(message.message.id)
                    self._answered.set()

    async def _drain(self) -> None:
        """Wait until the requests that were read are answered, for `DRAIN_SECONDS` at most."""
        with anyio.move_on_after(DRAIN_SECONDS):
            while self._unanswered:
                self._answered = anyio.Event()
                await self._answered.wait()

    def __aiter__(self) -> MessageLines:
        return self

    async def __anext__(self) -> str:
        while not self._pending:
            line = await self._source.readline()
            if not line:
                await self._drain()
                raise StopAsyncIteration
            self._pending = await self._messages(line.removeprefix(BYTE_ORDER_MARK).strip())
        return self._pending.pop(0)

    async def _messages(self, line: str) -> list[str]:
        """Return the valid messages on a line: one, or those of a batch."""
        if not line:
            return []
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            await self._refuse(_error(PARSE_ERROR, NOT_JSON), line)
            return []
        if message == []:
            await self._refuse(_error(INVALID_REQUEST, EMPTY_BATCH), line)
        valid: list[str] = []
        for one in message if isinstance(message, list) else [message]:
            if error := message_error(one):
                await self._refuse(error, json.dumps(one))
            else:
                valid.append(json.dumps(one))
                if "method" in one and "id" in one:
                    self._unanswered.add(one["id"])
        return valid

    async def _refuse(self, error: JSONRPCError, line: str) -> None:
        log.warning("rejected a message on stdin: %s: %s", error.error.message, format_value(line[:80]))
        await self._ready.wait()
        if self._outgoing is not None:
            await self._outgoing.send(SessionMessage(error))


@asynccontextmanager
async def stdio() -> AsyncIterator[tuple[Any, Any]]:
    """Open the streams of a server on stdin and stdout."""
    lines = MessageLines(anyio.wrap_file(_take_stdin()))
    async with stdio_server(stdin=lines) as (incoming, outgoing):  # type: ignore[arg-type]  # it only iterates
        lines.answer_on(outgoing)
        answers, sent = anyio.create_memory_object_stream[SessionMessage](0)
        async with anyio.create_task_group() as group, answers:
            group.start_soon(lines.forward, sent, outgoing)
            yield incoming, answers


def _take_stdin() -> TextIOWrapper:
    """Return stdin as text, and replace it by /dev/null for child processes.

    The SDK does this only if it reads stdin itself.
    """
    source = os.fdopen(os.dup(sys.stdin.fileno()), "rb", closefd=False)
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, sys.stdin.fileno())
    os.close(devnull)
    return TextIOWrapper(source, encoding="utf-8", errors="replace")
