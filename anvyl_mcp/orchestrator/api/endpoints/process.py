"""`POST /agent/process`: a question in plain words, answered whole."""

from __future__ import annotations

from anvyl_mcp.orchestrator.api.endpoint import Visit, endpoint
from anvyl_mcp.orchestrator.api.schemas import HELD, LISTED, Answer, Question, Waiting


@endpoint(
    "POST",
    "/agent/process",
    takes=Question,
    answers={200: Answer, 202: Waiting},
    errors=(403, 404, 409, 429, 503),
    example={"query": "list all containers"},
    shows={200: LISTED, 202: HELD},
    question=True,
)
async def process(body: Question, visit: Visit) -> Answer | Waiting:
    """Ask, or tell the fleet to do something. A change waits for a yes: 202, with the id to give it by."""
    desk = await visit.here.desk()
    return await desk.process(body.query, visit.asking, approve=body.approve, path=visit.path, alone=visit.alone)
