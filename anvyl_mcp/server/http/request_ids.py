"""Request ids, in the response, in its errors and in the logs of every host it reaches; no cache keeps a response."""

from __future__ import annotations

import logging
import re
import secrets
import time
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.text import format_value

log = logging.getLogger(__name__)

USABLE = re.compile(r"[A-Za-z0-9._:+=-]{1,64}", re.ASCII)
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the current request."""


class RequestIds:
    """The outermost middleware: takes the client's request id, or creates one, and lets no cache keep the response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the request id to the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        chosen = Headers(scope=scope).get(protocol_keys.REQUEST_ID_HEADER, "")
        request_id = chosen if USABLE.fullmatch(chosen) else secrets.token_hex(8)
        REQUEST_ID.set(request_id)
        started = time.monotonic()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[protocol_keys.REQUEST_ID_HEADER] = request_id
                headers.setdefault("Cache-Control", "no-store")
                seconds = time.monotonic() - started
                line = (scope["method"], format_value(scope["path"]), message["status"], seconds, request_id)
                log.debug("%s %s → %d in %.3f s [%s]", *line)
            await send(message)

        await self._app(scope, receive, send_with_id)
