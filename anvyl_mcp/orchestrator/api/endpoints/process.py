"""`POST /agent/process`: answers a question in one response."""

from __future__ import annotations

from anvyl_mcp.orchestrator.api.endpoint import AgentRequest, endpoint
from anvyl_mcp.orchestrator.api.schemas import ANSWER_EXAMPLE, WAITING_EXAMPLE, Answer, Question, Waiting


@endpoint(
    "POST",
    "/agent/process",
    body=Question,
    responses={200: Answer, 202: Waiting},
    errors=(403, 404, 409, 429, 503),
    example={"query": "list all containers"},
    response_examples={200: ANSWER_EXAMPLE, 202: WAITING_EXAMPLE},
    is_question=True,
)
async def process(body: Question, request: AgentRequest) -> Answer | Waiting:
    """Ask a question, or request a change. A change waits for approval: the response is 202, with the approval's id."""
    service = await request.context.agent_service()
    return await service.process(
        body.query,
        request.caller,
        approve=body.approve,
        path=request.path,
        single_host=request.single_host,
        conversation=body.conversation,
    )
