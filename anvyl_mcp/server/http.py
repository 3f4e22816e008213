"""The HTTP face of this host: MCP and health, with other routes beside them, behind one guard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from mcp.server.lowlevel.server import Server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from anvyl_mcp import __version__
from anvyl_mcp.errors import AnvylError, Denied, EngineError, InvalidInput, NotFound, Timeout, Unreachable
from anvyl_mcp.server.engine import Engine
from anvyl_mcp.server.guard import Guard, error_response

STATUS: dict[type[AnvylError], int] = {
    InvalidInput: 422,
    NotFound: 404,
    Denied: 403,
    Timeout: 504,
    Unreachable: 502,
    EngineError: 503,
}
"""HTTP statuses of errors; the nearest ancestor counts, 500 otherwise."""


def build_app(server: Server[Any], engine: Engine, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """One application for every port: `/mcp`, `/health` and `routes`."""
    # The guard in front checks Host and Origin for every route, `/mcp` included.
    inner = server.streamable_http_app(
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_sessions=200,
        session_idle_timeout=600,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with server.session_manager.run():
            yield

    return Starlette(
        routes=[Route("/health", health(engine)), *routes, *inner.routes],
        middleware=[Middleware(Guard)],
        exception_handlers={AnvylError: _anvyl_error, HTTPException: _http_error},
        lifespan=lifespan,
    )


def health(engine: Engine) -> Callable[[Request], Any]:
    """`GET /health`: healthy, or degraded without an engine."""

    def check() -> str:
        try:
            engine.ping()
        except (EngineError, Timeout) as error:
            return str(error)
        return "ok"

    async def handler(_: Request) -> Response:
        found = await anyio.to_thread.run_sync(check, abandon_on_cancel=True)
        return JSONResponse(
            {
                "status": "healthy" if found == "ok" else "degraded",
                "service": "anvyl",
                "version": __version__,
                "checks": {"engine": found},
            }
        )

    return handler


def status_of(error: AnvylError) -> int:
    """The HTTP status for an error."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


async def _anvyl_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, AnvylError)
    return error_response(error, status_of(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told: AnvylError
    match error.status_code:
        case 404:
            told = NotFound(f"there is nothing at {request.url.path}", hint="see /health, /mcp and /agent/info")
        case 405:
            told = InvalidInput(f"{request.method} is not for {request.url.path}", hint="use another method")
        case _:
            told = AnvylError(str(error.detail))
    response = error_response(told, error.status_code)
    response.headers.update(error.headers or {})
    return response
