"""How another machine joins: `POST /pair` redeems a code, `GET /pair` says what a caller may, `DELETE` ends it.

`POST /network` opens this host to the network, for somebody on this machine.
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
from anvyl_mcp.server.audit.events import recorded
from anvyl_mcp.server.auth.callers import caller_of, in_order
from anvyl_mcp.server.http.host_state import HostState

MOST_ASKED = 16
"""Records of the audit log that one request may ask for."""

Open = Callable[[str], Awaitable[list[str]]]
Handler = Callable[[Request], Awaitable[Response]]


def needs_read(handler: Handler) -> Handler:
    """The handler, for callers who may read."""

    async def guarded(request: Request) -> Response:
        caller_of(request).require("read", "this")
        return await handler(request)

    return guarded


def joining_routes(state: HostState, name: str, open_network: Open) -> list[Route]:
    """The routes; `open_network` serves an address from now on and returns the URLs there."""

    async def pair(request: Request) -> Response:
        body = await _body(request)
        secret, called = body.get("secret"), body.get("name")
        if not isinstance(secret, str) or not isinstance(called, str):
            raise InvalidInput("the body needs a `secret` and a `name`", hint="use anvyl hosts add")
        caller = caller_of(request)
        token, text, _ = await anyio.to_thread.run_sync(state.redeem, secret, called, caller)
        told = {"name": name, "token": text, "scopes": in_order(token.scopes), "version": __version__}
        return JSONResponse({**told, "relay": token.relay, "replaced": caller.how == "token"}, status_code=201)

    async def known(request: Request) -> Response:
        caller = caller_of(request)
        asked = [int(one) for one in request.query_params.getlist("seq") if one.isascii() and one.isdigit()]
        return JSONResponse(
            {
                "audit": await anyio.to_thread.run_sync(state.audit.witness, asked[:MOST_ASKED]),
                "host": name,
                "name": caller.name,
                "scopes": in_order(caller.scopes),
                "version": __version__,
                "time": datetime.now(UTC).isoformat(),
            }
        )

    async def leave(request: Request) -> Response:
        caller = caller_of(request)
        if caller.how != "token":
            raise Denied("only the holder of a token can give it back", hint="use anvyl-mcp token revoke NAME")
        await anyio.to_thread.run_sync(state.revoke, caller.id, caller)
        return JSONResponse({"revoked": caller.name})

    async def network(request: Request) -> Response:
        caller = caller_of(request)
        caller.require("exec", "opening this host to the network")
        if caller.how not in ("local", "loopback"):
            raise Denied("only somebody on this machine opens it to the network", hint="run anvyl-mcp invite there")
        address = (await _body(request)).get("address")
        if not isinstance(address, str) or not address:
            raise InvalidInput("the body needs an `address`", hint="use anvyl-mcp invite --host ADDRESS")
        with recorded(state.audit, "open_network", {"address": address}, caller):
            return JSONResponse({"urls": await open_network(address)})

    return [
        Route("/pair", pair, methods=["POST"]),
        Route("/pair", needs_read(known), methods=["GET"]),
        Route("/pair", leave, methods=["DELETE"]),
        Route("/network", network, methods=["POST"]),
    ]


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the body is not JSON", hint="use the commands, they send what is needed") from error
    if not isinstance(body, dict):
        raise InvalidInput("the body must be a JSON object", hint="use the commands, they send what is needed")
    return body
