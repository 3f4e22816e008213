"""`POST /agent/process/stream`: a question, with what happens for it as it happens."""

from __future__ import annotations

from pydantic import BaseModel

from anvyl_mcp.orchestrator.api.endpoint import Tell, Visit, endpoint
from anvyl_mcp.orchestrator.api.schemas import Answer, Question, Waiting


class Text(BaseModel):
    """A piece of the answer; all pieces together are the `response` of `done`."""

    text: str


@endpoint(
    "POST",
    "/agent/process/stream",
    takes=Question,
    answers={200: Answer},
    errors=(429,),
    example={"query": "list all containers"},
    question=True,
    streams=True,
)
async def process_stream(body: Question, visit: Visit, tell: Tell) -> None:
    """As process, in server-sent events: `call`, `result`, `text`, `approval`, and at the end `done` or `error`."""
    desk = await visit.here.desk()

    watch = desk.watch(lambda call: tell("call", call), lambda call: tell("result", call))
    answer = await desk.process(
        body.query, visit.asking, approve=body.approve, path=visit.path, alone=visit.alone, watch=watch
    )
    tell("text", Text(text=answer.response))
    if isinstance(answer, Waiting):
        tell("approval", answer.approval)
    tell("done", answer)
