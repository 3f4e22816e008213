"""`POST /agent/call`: call one tool, without a question."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from anvyl_mcp.orchestrator.api.endpoint import AgentRequest, endpoint
from anvyl_mcp.orchestrator.api.schemas import ANSWER_EXAMPLE, WAITING_EXAMPLE, Answer, Document, Waiting


class ToolCall(Document):
    """A call of one tool of the catalogue on the hosts of a selector."""

    tool: Annotated[str, Field(min_length=1, max_length=100)]
    arguments: Annotated[dict[str, Any], Field(default_factory=dict)]
    host: Annotated[str, Field(max_length=200, description="`nas`, `nas,pi`, `@tag` or `all`; empty: as the tool")] = ""
    approve: Annotated[
        bool, Field(description="make the change at once, if it destroys nothing and concerns one host")
    ] = False


@endpoint(
    "POST",
    "/agent/call",
    body=ToolCall,
    responses={200: Answer, 202: Waiting},
    errors=(403, 404, 409, 429, 502, 503, 504),
    example={"tool": "list_containers", "arguments": {"all": True}, "host": "nas"},
    response_examples={200: {**ANSWER_EXAMPLE, "response": "", "mode": "rules", "model": ""}, 202: WAITING_EXAMPLE},
)
async def call(body: ToolCall, request: AgentRequest) -> Answer | Waiting:
    """Call one tool. A change waits for approval, like one that was asked for in words: the response is 202."""
    answer = await request.context.calls.call(
        body.tool,
        body.arguments,
        body.host,
        request.caller,
        approve=body.approve,
        single_host=request.single_host,
    )
    request.context.nudge()
    return answer
