"""Limit of MCP sessions per caller: opening one more ends the least recently used."""

from __future__ import annotations

from collections import Counter, OrderedDict

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anvyl_mcp.server.auth.limits import Overloaded
from anvyl_mcp.server.http.origin_check import error_response

PATH = "/mcp"
SESSION = "mcp-session-id"
MAX_SESSIONS = 200
"""Of all callers."""
MAX_PER_CALLER = 32


class SessionLimits:
    """Counts sessions of clients that speak a protocol version with a handshake; later versions have no sessions."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open: dict[str, OrderedDict[str, None]] = {}
        self._pending: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; one that opens a session may end another session of its caller."""
        if scope["type"] != "http" or scope["path"] != PATH or "user" not in scope:
            await self._app(scope, receive, send)
            return
        caller, headers = scope["user"].username, Headers(scope=scope)
        sessions = self._open.setdefault(caller, OrderedDict())
        version = headers.get("mcp-protocol-version", "")
        if (session := headers.get(SESSION)) is not None:
            if session in sessions:
                sessions.move_to_end(session)
            await self._app(scope, receive, send)
        elif scope["method"] == "POST" and version in ("", *HANDSHAKE_PROTOCOL_VERSIONS):
            await self._open_session(caller, sessions, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _open_session(
        self, caller: str, sessions: OrderedDict[str, None], scope: Scope, receive: Receive, send: Send
    ) -> None:
        if self._pending[caller] >= MAX_PER_CALLER:
            error = Overloaded("this caller is opening too many sessions at once", retry_after=1)
            await error_response(error, 429, {"Retry-After": str(error.retry_after)})(scope, receive, send)
            return

        async def record_session(message: Message) -> None:
            if message["type"] == "http.response.start" and (session := Headers(raw=message["headers"]).get(SESSION)):
                sessions[session] = None
            await send(message)

        self._pending[caller] += 1
        try:
            while sessions and len(sessions) + self._pending[caller] > MAX_PER_CALLER:
                oldest, _ = sessions.popitem(last=False)
                await self._end_session(oldest, scope)
            await self._app(scope, receive, record_session)
        finally:
            self._pending[caller] -= 1

    async def _end_session(self, session: str, scope: Scope) -> None:
        """End a session the way its client would."""

        async def empty_body() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def discard(_: Message) -> None:
            return

        headers = [(SESSION.encode(), session.encode("latin-1"))]
        await self._app({**scope, "method": "DELETE", "headers": headers}, empty_body, discard)
