"""Pairing routes: `POST /pair` redeems a code, `GET /pair` returns a caller's scopes, `DELETE /pair` unpairs.

`POST /network` lets a caller on this machine open the host to the network.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from anvyl_mcp import __version__
from anvyl_mcp.core.errors import Denied, InvalidInput
from anvyl_mcp.server.audit.events import record_action
from anvyl_mcp.server.auth.callers import caller_of, sort_scopes
from anvyl_mcp.server.http.host_state import HostState

USE_COMMANDS = "use `anvyl hosts` and `anvyl-mcp invite`, which send the right body"
MAX_RECORDS = 16
"""Audit log records that one request may ask for."""

OpenNetwork = Callable[[str], Awaitable[list[str]]]
RouteHandler = Callable[[Request], Awaitable[Response]]


def require_read(handler: RouteHandler) -> RouteHandler:
    """Wrap a handler to require the `read` scope."""

    async def guarded(request: Request) -> Response:
        caller_of(request).require("read", request.url.path)
        return await handler(request)

    return guarded


def pairing_routes(state: HostState, name: str, open_network: OpenNetwork) -> list[Route]:
    """Return the routes. `open_network` starts serving an address and returns its URLs."""

    async def pair(request: Request) -> Response:
        body = await _body(request)
        secret, joining = body.get("secret"), body.get("name")
        if not isinstance(secret, str) or not isinstance(joining, str):
            raise InvalidInput("the body needs a `secret` and a `name`", hint="use anvyl hosts add")
        caller = caller_of(request)
        token, text = await anyio.to_thread.run_sync(state.redeem, secret, joining, caller)
        paired = {"name": name, "token": text, "scopes": sort_scopes(token.scopes), "version": __version__}
        return JSONResponse({**paired, "relay": token.relay, "replaced": caller.how == "token"}, status_code=201)

    async def show(request: Request) -> Response:
        caller = caller_of(request)
        numbers = [int(seq) for seq in request.query_params.getlist("seq") if seq.isascii() and seq.isdigit()]
        return JSONResponse(
            {
                "audit": await anyio.to_thread.run_sync(state.audit.witness, numbers[:MAX_RECORDS]),
                "host": name,
                "name": caller.name,
                "scopes": sort_scopes(caller.scopes),
                "version": __version__,
                "time": datetime.now(UTC).isoformat(),
            }
        )

    async def unpair(request: Request) -> Response:
        caller = caller_of(request)
        if caller.how != "token":
            raise Denied("only the holder of a token can give it up this way", hint="use anvyl-mcp token revoke NAME")
        await anyio.to_thread.run_sync(state.revoke, caller.id, caller)
        return JSONResponse({"revoked": caller.name})

    async def serve_network(request: Request) -> Response:
        caller = caller_of(request)
        caller.require("exec", "opening this host to the network")
        if caller.how not in ("local", "loopback"):
            raise Denied("only a caller on this machine may open it to the network", hint="run anvyl-mcp invite there")
        address = (await _body(request)).get("address")
        if not isinstance(address, str) or not address:
            raise InvalidInput("the body needs an `address`", hint="use anvyl-mcp invite --host ADDRESS")
        with record_action(state.audit, "open_network", {"address": address}, caller):
            return JSONResponse({"urls": await open_network(address)})

    return [
        Route("/pair", pair, methods=["POST"]),
        Route("/pair", require_read(show), methods=["GET"]),
        Route("/pair", unpair, methods=["DELETE"]),
        Route("/network", serve_network, methods=["POST"]),
    ]


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the body is not JSON", hint=USE_COMMANDS) from error
    if not isinstance(body, dict):
        raise InvalidInput("the body must be a JSON object", hint=USE_COMMANDS)
    return body
