"""Server-sent events: what happens for a question, told as it happens."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.orchestrator.api.endpoint import Tell
from anvyl_mcp.orchestrator.api.schemas import ErrorBody, Failure

BREATH_SECONDS = 15
"""Between two lines: a silent connection is cut by what stands between."""


class Events(Response):
    """A stream that ends with its work; the work ends when the client hangs up."""

    media_type = "text/event-stream"

    def __init__(self, work: Callable[[Tell], Awaitable[Any]]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        outgoing, incoming = anyio.create_memory_object_stream[bytes](math.inf)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

        def tell(name: str, document: BaseModel) -> None:
            outgoing.send_nowait(event(name, document))

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        async def run() -> None:
            with outgoing:
                try:
                    await self._work(tell)
                except AnvylError as error:
                    tell("error", Failure(error=ErrorBody(**error.as_dict())))

        with incoming:
            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                group.start_soon(run)
                while True:
                    part = b": still at it\n\n"
                    try:
                        with anyio.move_on_after(BREATH_SECONDS):
                            part = await incoming.receive()
                    except anyio.EndOfStream:
                        break
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                group.cancel_scope.cancel()


def event(name: str, document: BaseModel) -> bytes:
    """One event; JSON has no line breaks of its own."""
    return f"event: {name}\ndata: {document.model_dump_json()}\n\n".encode()
