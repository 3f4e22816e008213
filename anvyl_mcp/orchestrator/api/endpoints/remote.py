"""`POST /agent/remote-query` and `/agent/broadcast`: the agents of other hosts are asked."""

from __future__ import annotations

from anvyl_mcp.orchestrator.api.endpoint import Visit, endpoint
from anvyl_mcp.orchestrator.api.schemas import (
    HELD,
    LISTED,
    Message,
    RemoteAnswer,
    RemoteQuestion,
    RemoteWaiting,
    Results,
)


@endpoint(
    "POST",
    "/agent/remote-query",
    takes=RemoteQuestion,
    answers={200: RemoteAnswer, 202: RemoteWaiting},
    errors=(403, 404, 409, 429, 502, 503, 504),
    example={"host_id": "nas", "query": "get host resources"},
    shows={
        200: {"host_id": "nas", "via": "agent", **LISTED},
        202: {"host_id": "nas", "via": "agent", **HELD},
    },
    question=True,
)
async def remote_query(body: RemoteQuestion, visit: Visit) -> RemoteAnswer | RemoteWaiting:
    """Ask the agent of another host, within 30 seconds. A change there waits there, and is approved here."""
    desk = await visit.here.desk()
    return await desk.others.ask(
        body.host_id,
        body.query,
        visit.asking,
        approve=body.approve,
        path=visit.path,
        request_id=visit.request_id,
    )


@endpoint(
    "POST",
    "/agent/broadcast",
    takes=Message,
    answers={200: Results},
    errors=(403, 409, 429),
    example={"message": "get host resources"},
    shows={
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
    question=True,
)
async def broadcast(body: Message, visit: Visit) -> Results:
    """Ask the agents of all hosts at once, this one too; each one's answer or error is an entry of its own."""
    desk = await visit.here.desk()
    return await desk.others.broadcast(
        body.message, visit.asking, approve=body.approve, path=visit.path, request_id=visit.request_id
    )
