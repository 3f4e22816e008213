"""`/agent/approvals`: list, approve or deny pending changes."""

from __future__ import annotations

from pydantic import BaseModel

from anvyl_mcp.orchestrator.api.endpoint import AgentRequest, endpoint
from anvyl_mcp.orchestrator.api.schemas import (
    ANSWER_EXAMPLE,
    WAITING_EXAMPLE,
    Answer,
    Decision,
    PendingChange,
    RemoteAnswer,
)


class PendingChanges(BaseModel):
    """Changes that wait for approval, the oldest first."""

    approvals: list[PendingChange]


@endpoint(
    "GET",
    "/agent/approvals",
    responses={200: PendingChanges},
    scope="operate",
    response_examples={
        200: {"approvals": [{**WAITING_EXAMPLE["approval"], "question": "stop web on nas", "asker": "ann"}]}
    },
)
async def pending(request: AgentRequest) -> PendingChanges:
    """List the changes that wait for approval and that this caller may approve."""
    return PendingChanges(approvals=await request.context.calls.pending(request.caller))


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
    try:
        return await service.decide(
            request.parameters["id"], request.caller, approve=body.approve, request_id=request.request_id
        )
    finally:
        request.context.nudge()
