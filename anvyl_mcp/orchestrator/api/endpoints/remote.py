"""`POST /agent/remote-query` and `/agent/broadcast`: ask the agents of other hosts."""

from __future__ import annotations

from anvyl_mcp.orchestrator.api.endpoint import AgentRequest, endpoint
from anvyl_mcp.orchestrator.api.schemas import (
    ANSWER_EXAMPLE,
    WAITING_EXAMPLE,
    Message,
    RemoteAnswer,
    RemoteQuestion,
    RemoteWaiting,
    Results,
)


@endpoint(
    "POST",
    "/agent/remote-query",
    body=RemoteQuestion,
    responses={200: RemoteAnswer, 202: RemoteWaiting},
    errors=(403, 404, 409, 429, 502, 503, 504),
    example={"host_id": "nas", "query": "get host resources"},
    response_examples={
        200: {"host_id": "nas", "via": "agent", **ANSWER_EXAMPLE},
        202: {"host_id": "nas", "via": "agent", **WAITING_EXAMPLE},
    },
    is_question=True,
)
async def remote_query(body: RemoteQuestion, request: AgentRequest) -> RemoteAnswer | RemoteWaiting:
    """Ask the agent of another host; it has 30 seconds. A change waits on that host, and can be approved here."""
    service = await request.context.agent_service()
    return await service.forwarding.ask(
        body.host_id,
        body.query,
        request.caller,
        approve=body.approve,
        path=request.path,
        request_id=request.request_id,
    )


@endpoint(
    "POST",
    "/agent/broadcast",
    body=Message,
    responses={200: Results},
    errors=(403, 409, 429),
    example={"message": "get host resources"},
    response_examples={
        200: {
            "results": [
                {"host_id": "nas", "result": "cpu 3 % of 4 cores, load 0.21", "via": "agent"},
                {
                    "host_id": "gpu",
                    "result": "gpu: connection refused. Is `anvyl-mcp serve` running there?",
                    "error": {
                        "code": "refused",
                        "message": "gpu: connection refused",
                        "hint": "is `anvyl-mcp serve` running there?",
                    },
                },
            ]
        }
    },
    is_question=True,
)
async def broadcast(body: Message, request: AgentRequest) -> Results:
    """Ask the agents of all hosts, including this one, at the same time. Each host's answer or error is one entry."""
    service = await request.context.agent_service()
    return await service.forwarding.broadcast(
        body.message, request.caller, approve=body.approve, path=request.path, request_id=request.request_id
    )
