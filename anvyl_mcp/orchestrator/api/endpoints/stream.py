"""`POST /agent/process/stream`: answers a question and streams its progress."""

from __future__ import annotations

from pydantic import BaseModel

from anvyl_mcp.orchestrator.api.endpoint import AgentRequest, SendEvent, endpoint
from anvyl_mcp.orchestrator.api.schemas import Answer, Approval, DoneCall, Question, Waiting, WaitingCall


class Text(BaseModel):
    """A piece of the answer; all pieces concatenated are the `response` of `done`."""

    text: str


@endpoint(
    "POST",
    "/agent/process/stream",
    body=Question,
    responses={200: Answer},
    errors=(429,),
    example={"query": "list all containers"},
    is_question=True,
    events={"call": WaitingCall, "result": DoneCall, "approval": Approval, "done": Answer | Waiting, "text": Text},
    response_examples={200: {"text": "web is running on nas."}},
)
async def process_stream(body: Question, request: AgentRequest, send_event: SendEvent) -> None:
    """Like process, as server-sent events: `call`, `result`, `text`, `approval`, and finally `done` or `error`."""
    service = await request.context.agent_service()
    answer = await service.process(
        body.query,
        request.caller,
        approve=body.approve,
        path=request.path,
        single_host=request.single_host,
        conversation=body.conversation,
        hooks=service.document_hooks(lambda call: send_event("call", call), lambda call: send_event("result", call)),
    )
    send_event("text", Text(text=answer.response))
    if isinstance(answer, Waiting):
        send_event("approval", answer.approval)
    send_event("done", answer)
