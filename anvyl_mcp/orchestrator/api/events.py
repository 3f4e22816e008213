"""Server-sent events: the progress of a question as a stream."""

from __future__ import annotations

import math
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
    """Streams the events that `work` sends; `work` is cancelled when the client disconnects."""

    media_type = "text/event-stream"

    def __init__(self, work: Callable[[SendEvent], Awaitable[Any]]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._work = work

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
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                group.cancel_scope.cancel()


def encode_event(name: str, document: BaseModel) -> bytes:
    """One event in wire format. The JSON is a single line."""
    return f"event: {name}\ndata: {document.model_dump_json()}\n\n".encode()
