"""Server-sent events: the progress of a question as a stream."""

from __future__ import annotations

import math
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.orchestrator.api.endpoint import SendEvent
from anvyl_mcp.orchestrator.api.schemas import ErrorBody, Failure

KEEPALIVE_SECONDS = 15
"""Between two lines, because proxies close idle connections."""


class EventStream(Response):
    """Streams the events that `work` sends; `work` is cancelled when the client disconnects.

    `compress`: the client takes gzip.
    """

    media_type = "text/event-stream"

    def __init__(self, work: Callable[[SendEvent], Awaitable[Any]], *, compress: bool = False) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept-Encoding"})
        del self.headers["content-length"]
        self._work = work
        self._gzip = zlib.compressobj(wbits=31) if compress else None
        if compress:
            self.headers["Content-Encoding"] = "gzip"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        outgoing, incoming = anyio.create_memory_object_stream[bytes](math.inf)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

        def send_event(name: str, document: BaseModel) -> None:
            outgoing.send_nowait(encode_event(name, document))

        async def watch_disconnect() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        async def run() -> None:
            with outgoing:
                try:
                    await self._work(send_event)
                except AnvylError as error:
                    send_event("error", Failure(error=ErrorBody(**error.as_dict())))

        with incoming:
            async with anyio.create_task_group() as group:
                group.start_soon(watch_disconnect)
                group.start_soon(run)
                while True:
                    chunk = b": still at it\n\n"
                    try:
                        with anyio.move_on_after(KEEPALIVE_SECONDS):
                            chunk = await incoming.receive()
                    except anyio.EndOfStream:
                        break
                    await send({"type": "http.response.body", "body": self._encode(chunk), "more_body": True})
                end = self._gzip.flush() if self._gzip else b""
                await send({"type": "http.response.body", "body": end, "more_body": False})
                group.cancel_scope.cancel()

    def _encode(self, chunk: bytes) -> bytes:
        """Encode a chunk so that the client can read all of it at once."""
        return self._gzip.compress(chunk) + self._gzip.flush(zlib.Z_SYNC_FLUSH) if self._gzip else chunk


def encode_event(name: str, document: BaseModel) -> bytes:
    """One event in wire format. The JSON is a single line."""
    return f"event: {name}\ndata: {document.model_dump_json()}\n\n".encode()
