"""The rules as a Pydantic AI model: same loop, approvals and errors, without a network.

The plan of a question is made once; the calls made since say what is left of it, so it can take over half-way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ToolCallPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.orchestrator.language.intent import read_wish
from anvyl_mcp.orchestrator.rules.reader import Plan, Reader
from anvyl_mcp.orchestrator.rules.results.answers import RULES, Turn, announcement, answer, not_tried, went_wrong
from anvyl_mcp.orchestrator.whole_answer import WholeAnswerModel
from anvyl_mcp.peers.connection.listing import ToolListing

LEFT = "The rules do not understand all that was asked: look what is left to do."
"""Error when they take over from a model in the middle of a run."""


class RulesModel(WholeAnswerModel):
    """Plays the plan of a question: its calls step by step, and sentences from their results.

    Raises `NotUnderstood` if the rules do not understand the question, with the word or with examples.
    """

    def __init__(self, reader: Reader, *, on_plan: Callable[[Plan], None] = lambda _: None) -> None:
        """`on_plan` is called with the plan before its calls are made."""
        super().__init__()
        self._reader = reader
        self._on_plan = on_plan

    @property
    def model_name(self) -> str:
        """Always `rules`."""
        return RULES

    @property
    def system(self) -> str:
        """Provider name."""
        return "anvyl"

    def prepare_messages(
        self, messages: list[ModelMessage], model_request_parameters: ModelRequestParameters | None = None
    ) -> list[ModelMessage]:
        """Return the history unchanged: prompts added for language models would hide the question."""
        return messages

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Return the next calls, or the answer."""
        offered = [tool.metadata for tool in model_request_parameters.function_tools if tool.metadata]
        listings = [known["listing"] for known in offered if isinstance(known.get("listing"), ToolListing)]
        tools = {listing.name: listing for listing in listings}
        return ModelResponse(parts=await self._next(tools, Turn.of(messages)), model_name=self.model_name)

    async def _next(self, tools: Mapping[str, ToolListing], turn: Turn) -> list[ModelResponsePart]:
        try:
            plan = await self._reader.plan(turn.question, tools)
        except AnvylError:
            if not turn.results:
                raise
            left = LEFT if read_wish(turn.question, tools.values()).intent == "change" else ""
            return [TextPart("\n".join(filter(None, [answer(tools, turn), left])))]
        self._on_plan(plan)
        turn.question = plan.said or turn.question
        taken: set[str] = set()
        for index, step in enumerate(plan.steps):
            results = [turn.result_of(call, taken) for call in step]
            missing = [call for call, result in zip(step, results, strict=True) if result is None]
            later = [call for rest in plan.steps[index + 1 :] for call in rest]
            if missing:
                calls = [ToolCallPart(call.listing.name, call.arguments) for call in missing]
                changes = not all(call.listing.reads for call in missing)
                return [*([TextPart(announcement(later))] if later and changes else []), *calls]
            if later and any(went_wrong(result) for result in results if result):
                return [TextPart(f"{answer(tools, turn)}\n{not_tried(later)}")]
        return [TextPart(answer(tools, turn))]
