"""`POST /agent/approvals/{id}`: approve or deny pending changes."""

from __future__ import annotations

from anvyl_mcp.orchestrator.api.endpoint import AgentRequest, endpoint
from anvyl_mcp.orchestrator.api.schemas import ANSWER_EXAMPLE, Answer, Decision, RemoteAnswer


@endpoint(
    "POST",
    "/agent/approvals/{id}",
    body=Decision,
    responses={200: Answer | RemoteAnswer},
    scope="operate",
    errors=(404, 409, 410, 429, 502, 504),
    example={"approve": True},
    response_examples={200: {**ANSWER_EXAMPLE, "response": "Stopped web on nas."}},
    is_question=True,
)
async def decide(body: Decision, request: AgentRequest) -> Answer | RemoteAnswer:
    """Execute exactly the changes listed in a response 202, or drop them. An id can be used once, within 15 minutes."""
    service = await request.context.agent_service()
    return await service.decide(
        request.parameters["id"], request.caller, approve=body.approve, request_id=request.request_id
    )
