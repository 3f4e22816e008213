"""Who may knock: checked in front of every route, so that a web page cannot reach a server on loopback."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anvyl_mcp.errors import AnvylError, Denied, InvalidInput

MOST_BODY_BYTES = 1024 * 1024
"""Requests are questions and arguments; nothing sent here is large."""
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Guard:
    """Refuses foreign `Host` and `Origin` headers, cross-site fetches, bodies that are not JSON, and large ones."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if refusal := _refusal(scope["method"], headers):
            status, error = refusal
            await error_response(error, status)(scope, receive, send)
            return
        await _Limited(self._app).serve(scope, receive, send)


class _TooLarge(Exception):
    """A body grew past the limit while it was read."""


class _Limited:
    """Counts a body whose length was not announced."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._seen = 0
        self._answered = False

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted() -> Message:
            message = await receive()
            self._seen += len(message.get("body", b""))
            if self._seen > MOST_BODY_BYTES:
                raise _TooLarge
            return message

        async def noted(message: Message) -> None:
            self._answered = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except _TooLarge:
            if not self._answered:
                await error_response(*_too_large())(scope, receive, send)


def error_response(error: AnvylError, status: int) -> JSONResponse:
    """The one shape of an error over HTTP."""
    return JSONResponse({"error": error.as_dict()}, status_code=status)


def _refusal(method: str, headers: Mapping[str, str]) -> tuple[int, AnvylError] | None:
    if not is_local(headers.get("host", "")):
        return 421, Denied("this server answers only to its own names", hint="use http://127.0.0.1 or http://localhost")
    origin = headers.get("origin", "")
    own = {f"http://{headers['host'].lower()}"}
    if origin and origin.lower() not in own:
        return 403, Denied("requests from web pages of other origins are refused", hint="use a client, not a browser")
    if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return 403, Denied("requests from other web pages are refused", hint="use a client, not a browser")
    if method not in ("GET", "HEAD", "DELETE", "OPTIONS"):
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            return 415, InvalidInput("the body must be JSON", hint="send `Content-Type: application/json`")
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MOST_BODY_BYTES:
        error, status = _too_large()
        return status, error
    return None


def _too_large() -> tuple[AnvylError, int]:
    return InvalidInput("the request is too large", hint=f"{MOST_BODY_BYTES} bytes are enough for any question"), 413


def is_local(host: str) -> bool:
    """Whether a `Host` header names this machine's loopback."""
    name, colon, port = host.lower().rpartition(":")
    if not colon or name.count("[") != name.count("]"):
        name, port = host.lower(), "0"
    return name in LOCAL_NAMES and port.isdigit()


def is_loopback(address: str) -> bool:
    """Whether a server bound to `address` is reachable only from this machine."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
