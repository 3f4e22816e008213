"""The agent API as HTTP routes: parses bodies, checks scopes, and cancels work when the client disconnects."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import AnvylError, InvalidInput
from anvyl_mcp.core.text import clean
from anvyl_mcp.orchestrator.api.docs_page import HEADERS, page
from anvyl_mcp.orchestrator.api.endpoint import AgentRequest, ApiCaller, Endpoint, HostContext, load_endpoints
from anvyl_mcp.orchestrator.api.events import EventStream
from anvyl_mcp.orchestrator.api.openapi import document
from anvyl_mcp.peers.hops import parse

CLIENT_CLOSED_REQUEST = 499
ALLOWED_SECONDS = 1.0
"""Between two looks at whether the caller of a stream may go on."""


def agent_routes(
    context: HostContext,
    caller_of: Callable[[Request], ApiCaller],
    charge: Callable[[Request], None],
    request_id: Callable[[], str],
) -> Sequence[Route]:
    """Routes of all endpoints and of their documentation. `charge` counts a question against its caller's limit."""

    def route(endpoint: Endpoint) -> Route:
        async def handler(request: Request) -> Response:
            caller = caller_of(request)
            caller.require(endpoint.scope, "this")
            if endpoint.is_question:
                charge(request)
            path = parse(request.headers.get(protocol_keys.PATH_HEADER, ""))
            single_host = protocol_keys.ALONE_HEADER in request.headers
            agent_request = AgentRequest(context, caller, path, request_id(), dict(request.path_params), single_host)
            arguments: list[Any] = [agent_request]
            if endpoint.body:
                arguments.insert(0, _parse_body(endpoint, await request.body()))
            if endpoint.streams:
                compress = "gzip" in request.headers.get("accept-encoding", "")
                return EventStream(
                    lambda send_event: _while_allowed(context, caller, endpoint.handler(*arguments, send_event)),
                    compress=compress,
                )
            return await run_until_disconnect(request, lambda: _respond(endpoint, arguments))

        return Route(endpoint.path, handler, methods=[endpoint.method], name=endpoint.name)

    return [*map(route, load_endpoints()), *_documentation_routes(context, caller_of)]


def _documentation_routes(context: HostContext, caller_of: Callable[[Request], ApiCaller]) -> Sequence[Route]:
    """The endpoints as an OpenAPI document and as a page."""

    async def openapi(request: Request) -> Response:
        caller_of(request).require("read", "this")
        return JSONResponse(document())

    async def docs(request: Request) -> Response:
        caller_of(request).require("read", "this")
        return HTMLResponse(page(load_endpoints(), context.base_url(), context.fleet.local.name), headers=HEADERS)

    return [Route("/openapi.json", openapi), Route("/docs", docs)]


async def _while_allowed(context: HostContext, caller: ApiCaller, work: Awaitable[object]) -> None:
    """Do the work of a stream; cancel it when the caller's credential is revoked or expires."""
    failure: AnvylError | None = None

    async def watch() -> None:
        while True:
            if not await anyio.to_thread.run_sync(context.may_continue, caller):
                group.cancel_scope.cancel()
            await anyio.sleep(ALLOWED_SECONDS)

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            await work
        except AnvylError as error:
            # The task group would wrap it.
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _respond(endpoint: Endpoint, arguments: list[Any]) -> Response:
    answer = await endpoint.handler(*arguments)
    assert answer is not None
    return JSONResponse(answer.model_dump(mode="json"), status_code=endpoint.status(answer))


async def run_until_disconnect(request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
    """Run the work of a request; cancel it, and the calls it made to other hosts, when the client disconnects."""
    answer, failure = Response(status_code=CLIENT_CLOSED_REQUEST), None

    async def watch_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(watch_disconnect)
            answer = await work()
            group.cancel_scope.cancel()
    except* AnvylError as raised:
        failure = _first_error(raised)
    if failure is not None:
        raise failure
    return answer


def _first_error(group: BaseExceptionGroup[AnvylError]) -> AnvylError:
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    assert isinstance(leaf, AnvylError)
    return leaf


def _parse_body(endpoint: Endpoint, content: bytes) -> BaseModel:
    """Parse and validate the body of a request.

    Raises:
        InvalidInput: the body does not match the endpoint's model.
    """
    assert endpoint.body is not None
    try:
        return endpoint.body.model_validate_json(content)
    except ValidationError as error:
        raise InvalidInput(_describe(error), hint=f"send something like {json.dumps(endpoint.example)}") from error


def _describe(error: ValidationError) -> str:
    """The first validation error as a sentence. Field names come from the client, so they are cleaned and cut."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = clean(".".join(str(part) for part in first["loc"]))[:60]
    reason = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
    match first["type"]:
        case "json_invalid":
            return f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
        case "extra_forbidden":
            return f"the body has an unknown field `{field}`"
        case "missing":
            return f"the body needs `{field}`"
    return f"`{field}` is invalid: {reason}" if field else f"the body is invalid: {reason}"
