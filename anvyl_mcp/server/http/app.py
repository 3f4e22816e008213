"""The host's HTTP application: MCP, health, pairing and further routes behind the same middleware."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from math import ceil
from pathlib import Path
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
from anvyl_mcp.core.errors import (
    AnvylError,
    ApprovalNeeded,
    Busy,
    ConfigInvalid,
    Conflict,
    Denied,
    EngineError,
    Gone,
    InternalError,
    InvalidInput,
    ModelUnavailable,
    NotFound,
    NotUnderstood,
    Timeout,
    Unknown,
    Unreachable,
)
from anvyl_mcp.core.text import format_value
from anvyl_mcp.server.auth.callers import caller_of
from anvyl_mcp.server.auth.local_trust import LocalToken, LoopbackTrust, engine_socket_members
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.http.authentication import Authentication, Verifier
from anvyl_mcp.server.http.browser.page_files import page_routes
from anvyl_mcp.server.http.browser.session_routes import session_routes
from anvyl_mcp.server.http.host_state import HostState
from anvyl_mcp.server.http.origin_check import OriginCheck, error_response, own_names
from anvyl_mcp.server.http.pairing_routes import OpenNetwork, RouteHandler, pairing_routes
from anvyl_mcp.server.http.request_ids import REQUEST_ID, RequestIds
from anvyl_mcp.server.http.session_limits import MAX_SESSIONS, SessionLimits
from anvyl_mcp.server.protocol.message_check import MessageCheck

log = logging.getLogger(__name__)

STATUS: dict[type[AnvylError], int] = {
    InvalidInput: 422,
    NotUnderstood: 422,
    NotFound: 404,
    Denied: 403,
    Conflict: 409,
    Gone: 410,
    ApprovalNeeded: 409,
    Busy: 429,
    Timeout: 504,
    Unreachable: 502,
    Unknown: 502,
    EngineError: 503,
    ModelUnavailable: 503,
    ConfigInvalid: 503,
}
"""HTTP status per error class: the nearest ancestor in this table, else 500."""


def build_app(
    server: Server[Any],
    engine: Engine,
    state: HostState,
    routes: Sequence[BaseRoute] = (),
    *,
    name: str,
    open_network: OpenNetwork,
    local_token: Path,
    verifier: Verifier | None = None,
) -> Starlette:
    """Build the application for every port: `/mcp`, `/health`, `/pair`, `/network`, the page and `routes`.

    `name` is the name of this host; `verifier` checks tokens of an identity provider.
    """
    own = [Route("/health", health(engine, state)), *pairing_routes(state, name, open_network)]
    page = [*page_routes(), *session_routes(state, name)]
    return _build(server, engine, state, [*own, *page, *routes], name, LocalToken(local_token), verifier)


def build_local_app(
    server: Server[Any],
    engine: Engine,
    state: HostState,
    *,
    name: str,
    local_token: Path,
    verifier: Verifier | None = None,
) -> Starlette:
    """Build the application of a fleet gateway: `/mcp` only, for callers on this machine."""
    return _build(server, engine, state, [], name, LocalToken(local_token), verifier, relaying=True)


def _build(
    server: Server[Any],
    engine: Engine,
    state: HostState,
    routes: Sequence[BaseRoute],
    name: str,
    local: LocalToken,
    verifier: Verifier | None,
    *,
    relaying: bool = False,
) -> Starlette:
    loopback = LoopbackTrust(member=engine_socket_members(engine.socket)) if engine.socket else LoopbackTrust()
    # OriginCheck already checks Host and Origin for every route, `/mcp` included.
    inner = server.streamable_http_app(
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_sessions=MAX_SESSIONS,
        session_idle_timeout=600,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        local.make()
        try:
            async with server.session_manager.run():
                yield
        finally:
            local.remove()
            state.refused.flush()

    for route in inner.routes:
        assert isinstance(route, Route)
        route.app = MessageCheck(route.app)
    return Starlette(
        routes=[*routes, *inner.routes],
        middleware=[
            Middleware(RequestIds),
            Middleware(OriginCheck, names=own_names(name)),
            Middleware(
                Authentication,
                tokens=state.tokens,
                loopback=loopback,
                local=local,
                verifier=verifier,
                refused=state.refused,
                relaying=relaying,
            ),
            Middleware(SessionLimits),
        ],
        exception_handlers={AnvylError: _anvyl_error, HTTPException: _http_error, Exception: _internal_error},
        lifespan=lifespan,
    )


def health(engine: Engine, state: HostState) -> RouteHandler:
    """`GET /health`: `healthy`, or `degraded` if engine or audit log fail; details only for callers who may read."""

    def check() -> str:
        try:
            engine.ping()
        except (EngineError, Timeout) as error:
            return str(error)
        return "ok"

    async def handler(request: Request) -> Response:
        found = await anyio.to_thread.run_sync(check, abandon_on_cancel=True)
        status = "healthy" if found == "ok" and not state.audit.trouble else "degraded"
        body: dict[str, Any] = {"status": status, "service": "anvyl", "version": __version__}
        if caller_of(request).may("read"):
            body["checks"] = {"engine": found, "audit": state.audit.trouble or "ok"}
            body["checks"] |= {name: check() for name, check in state.further_checks.items()}
        return JSONResponse(body)

    return handler


def status_of(error: AnvylError) -> int:
    """The HTTP status for an error."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


async def _anvyl_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, AnvylError)
    wait = ceil(error.retry_after) if isinstance(error, Busy) else 0
    headers = {"Retry-After": str(wait)} if wait else None
    return error_response(error, status_of(error), headers)


async def _internal_error(request: Request, __: Exception) -> Response:
    # Details go to the log only: a caller learns no internals.
    log.error("%s %s failed [%s]", request.method, format_value(request.url.path), REQUEST_ID.get())
    return error_response(InternalError("the request failed because of a bug in Anvyl", hint="see its log"), 500)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer: AnvylError
    match error.status_code:
        case 404:
            answer = NotFound(f"no such path: {request.url.path}", hint="see /health, /mcp and /agent/info")
        case 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            answer = InvalidInput(f"{request.url.path} does not support {request.method}", hint=f"use {allowed}")
        case _:
            answer = AnvylError(str(error.detail))
    response = error_response(answer, error.status_code)
    response.headers.update(error.headers or {})
    return response
