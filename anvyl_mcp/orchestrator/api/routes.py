"""The endpoints of the agent API as HTTP routes: bodies in and out, who may, and an end when the client hangs up."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import anyio
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import AnvylError, InvalidInput
from anvyl_mcp.core.text import clean
from anvyl_mcp.orchestrator.api.docs_page import HEADERS, page
from anvyl_mcp.orchestrator.api.endpoint import Asking, Endpoint, Here, Visit, load
from anvyl_mcp.orchestrator.api.events import Events
from anvyl_mcp.orchestrator.api.openapi import document
from anvyl_mcp.peers.hops import parse

CLIENT_GONE = 499
Result = TypeVar("Result")


def agent_routes(
    here: Here, caller_of: Callable[[Request], Asking], charge: Callable[[Request], None], request_id: Callable[[], str]
) -> Sequence[Route]:
    """Every endpoint of the table. `charge` counts a question against its caller's limits."""

    def route(one: Endpoint) -> Route:
        async def handler(request: Request) -> Response:
            asking = caller_of(request)
            asking.require(one.needs, "this")
            if one.question:
                charge(request)
            path = parse(request.headers.get(protocol_keys.PATH_HEADER, ""))
            alone = protocol_keys.ALONE_HEADER in request.headers
            visit = Visit(here, asking, path, request_id(), dict(request.path_params), alone)
            arguments: list[Any] = [_body(one, await request.body()), visit] if one.takes else [visit]
            if one.streams:
                return Events(lambda tell: one.handler(*arguments, tell))
            return await until_gone(request, lambda: _answered(one, arguments))

        return Route(one.path, handler, methods=[one.method], name=one.name)

    return [*map(route, load()), *_about(here, caller_of)]


def _about(here: Here, caller_of: Callable[[Request], Asking]) -> Sequence[Route]:
    """What tells programs and people of the endpoints."""

    async def openapi(request: Request) -> Response:
        caller_of(request).require("read", "this")
        return JSONResponse(document())

    async def docs(request: Request) -> Response:
        caller_of(request).require("read", "this")
        return HTMLResponse(page(load(), here.base_url(), here.fleet.local.name), headers=HEADERS)

    return [Route("/openapi.json", openapi), Route("/docs", docs)]


async def _answered(one: Endpoint, arguments: list[Any]) -> Response:
    answer = await one.handler(*arguments)
    assert answer is not None
    return JSONResponse(answer.model_dump(mode="json"), status_code=one.status(answer))


async def until_gone(request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
    """Do the work of a request; when its client hangs up, the work stops, and so does what it asked of others."""
    answer, failure = Response(status_code=CLIENT_GONE), None

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            answer = await work()
            group.cancel_scope.cancel()
    except* AnvylError as raised:
        failure = _first(raised)
    if failure is not None:
        raise failure
    return answer


def _first(group: BaseExceptionGroup[AnvylError]) -> AnvylError:
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    assert isinstance(leaf, AnvylError)
    return leaf


def _body(one: Endpoint, content: bytes) -> BaseModel:
    """What was sent, checked.

    Raises:
        InvalidInput: it is not what the endpoint takes.
    """
    assert one.takes is not None
    try:
        return one.takes.model_validate_json(content)
    except ValidationError as error:
        raise InvalidInput(_problem(error), hint=f"send something like {json.dumps(one.example)}") from error


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong, in words; names of fields were chosen by the client."""
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = clean(".".join(str(part) for part in found["loc"]))[:60]
    match found["type"]:
        case "json_invalid":
            return f"the body is not JSON: {found['msg'].removeprefix('Invalid JSON: ')}"
        case "extra_forbidden":
            return f"the body has an unknown field `{where}`"
        case "missing":
            return f"the body needs `{where}`"
    if not where:
        return f"the body cannot be used: {found['msg'][:1].lower()}{found['msg'][1:]}"
    return f"`{where}` cannot be used: {found['msg'][:1].lower()}{found['msg'][1:]}"
