"""`POST /agent/approvals/{id}`: a person's answer to what waits."""

from __future__ import annotations

from anvyl_mcp.orchestrator.api.endpoint import Visit, endpoint
from anvyl_mcp.orchestrator.api.schemas import LISTED, Answer, Decision, RemoteAnswer


@endpoint(
    "POST",
    "/agent/approvals/{id}",
    takes=Decision,
    answers={200: Answer | RemoteAnswer},
    needs="operate",
    errors=(404, 409, 410, 429, 502, 504),
    example={"approve": True},
    shows={200: {**LISTED, "response": "stop web on nas: done, now exited"}},
    question=True,
)
async def decide(body: Decision, visit: Visit) -> Answer | RemoteAnswer:
    """Have exactly the changes done that an answer 202 showed, or none of them. An id is good once, for 15 minutes."""
    desk = await visit.here.desk()
    return await desk.decide(visit.parameters["id"], visit.asking, approve=body.approve, request_id=visit.request_id)
