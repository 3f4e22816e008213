"""How many MCP sessions one caller keeps open: one more ends the one that it used longest ago."""

from __future__ import annotations

from collections import Counter, OrderedDict

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anvyl_mcp.server.auth.limits import Overloaded
from anvyl_mcp.server.http.origin_check import error_response

PATH = "/mcp"
SESSION = "mcp-session-id"
MOST_SESSIONS = 200
"""Of all callers together."""
MOST_EACH = 32


class Sessions:
    """Counts the sessions of clients of the handshake versions; later clients have none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open: dict[str, OrderedDict[str, None]] = {}
        self._opening: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through; one that opens a session may end another of its caller."""
        if scope["type"] != "http" or scope["path"] != PATH or "user" not in scope:
            await self._app(scope, receive, send)
            return
        caller, headers = scope["user"].username, Headers(scope=scope)
        mine = self._open.setdefault(caller, OrderedDict())
        version = headers.get("mcp-protocol-version", "")
        if (session := headers.get(SESSION)) is not None:
            if session in mine:
                mine.move_to_end(session)
            await self._app(scope, receive, send)
        elif scope["method"] == "POST" and version in ("", *HANDSHAKE_PROTOCOL_VERSIONS):
            await self._begin(caller, mine, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _begin(
        self, caller: str, mine: OrderedDict[str, None], scope: Scope, receive: Receive, send: Send
    ) -> None:
        if self._opening[caller] >= MOST_EACH:
            error = Overloaded("this caller opens too many sessions at once", retry_after=1)
            await error_response(error, 429, {"Retry-After": str(error.retry_after)})(scope, receive, send)
            return

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start" and (session := Headers(raw=message["headers"]).get(SESSION)):
                mine[session] = None
            await send(message)

        self._opening[caller] += 1
        try:
            while mine and len(mine) + self._opening[caller] > MOST_EACH:
                oldest, _ = mine.popitem(last=False)
                await self._end(oldest, scope)
            await self._app(scope, receive, noted)
        finally:
            self._opening[caller] -= 1

    async def _end(self, session: str, scope: Scope) -> None:
        """End a session as its client would."""

        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def unheard(_: Message) -> None:
            return

        headers = [(SESSION.encode(), session.encode("latin-1"))]
        await self._app({**scope, "method": "DELETE", "headers": headers}, nothing, unheard)
