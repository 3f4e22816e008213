"""`/agent/*`: questions over HTTP."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from anvyl_mcp.errors import InvalidInput
from anvyl_mcp.orchestrator.agent import Assistant, nobody
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.reply import Reply, call_as_dict
from anvyl_mcp.peers.fleet import OnBehalf

ACCEPTED = 202


class Asking(Protocol):
    """Who asks: what is done for an answer is done with no more rights than these."""

    @property
    def name(self) -> str:
        """For the audit log."""

    @property
    def scopes(self) -> frozenset[str]:
        """Of `read`, `operate` and `exec`."""


def process(assistant: Assistant, caller_of: Callable[[Request], Asking]) -> Callable[[Request], Awaitable[Response]]:
    """`POST /agent/process`: `{"query", "approve"}` → the answer; 202 when a change waits for a yes."""

    async def handler(request: Request) -> Response:
        query, approve = await _read(request)
        caller = caller_of(request)
        question = Question(query, on_behalf=OnBehalf(caller.name, caller.scopes))
        reply = await assistant.ask(question, decide=_trusting if approve else nobody)
        if reply.error is not None:
            raise reply.error
        body = as_response(reply)
        if reply.waiting:
            body["approval"] = {"calls": body.pop("waiting")}
            return JSONResponse(body, status_code=ACCEPTED)
        return JSONResponse(body)

    return handler


def as_response(reply: Reply) -> dict[str, Any]:
    """`{"response", "calls", "mode", "model", "usage", "hosts", "notes"}`."""
    body: dict[str, Any] = {
        "response": reply.answer,
        "calls": [call_as_dict(call) for call in reply.calls],
        "mode": reply.mode,
        "model": reply.model,
        "usage": reply.usage,
        "hosts": reply.hosts,
        "notes": reply.notes,
    }
    if reply.waiting:
        body["waiting"] = [
            {"tool": proposal.tool, "arguments": proposal.arguments, "hosts": proposal.hosts}
            for proposal in reply.waiting
        ]
    return body


async def _trusting(proposal: Proposal) -> bool | None:
    """`"approve": true` covers what was proposed before any text written by others was read."""
    return None if proposal.untrusted else True


async def _read(request: Request) -> tuple[str, bool]:
    try:
        body = json.loads(await request.body())
        json.dumps(body, ensure_ascii=False).encode()  # half of a surrogate pair could not be sent back
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the body is not JSON: {error}", hint='send {"query": "list all containers"}') from error
    if not isinstance(body, dict) or not isinstance(body.get("query"), str):
        raise InvalidInput("the body needs a `query` of text", hint='send {"query": "list all containers"}')
    approve = body.get("approve", False)
    if not isinstance(approve, bool):
        raise InvalidInput("`approve` must be true or false", hint="leave it out to be asked first")
    if unknown := sorted(set(body) - {"query", "approve"}):
        raise InvalidInput(f"the body has an unknown field `{unknown[0]}`", hint="it takes `query` and `approve`")
    return body["query"], approve
