"""Trim a request to what the model should see: the selected tools, and results that fit into its context window.

The run itself keeps all tools and complete results, for the rules and for the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from anvyl_mcp.orchestrator.models.tool_finder import FIND_TOOLS, found_tools
from anvyl_mcp.orchestrator.models.tool_subset import compact_schema
from anvyl_mcp.orchestrator.whole_answer import WholeAnswerModel

CHARACTERS_PER_TOKEN = 3.2
PROMPT_TOKENS, ALL_TOOLS_TOKENS, ANSWER_TOKENS = 2300, 3300, 500
MIN_CONTEXT_FOR_ALL_TOOLS = 16_000
"""Tokens of context from which the definitions of all tools leave enough room for results."""
DEFAULT_CONTEXT = 32_768
"""Assumed when the server does not report a context length."""
MIN_RESULT_CHARACTERS = 1200
"""Minimum budget for tool results, however small the context is."""
RESULTS_SHOWN = "(The results were shown to the person.)"
CUT_RESULT = "[an earlier result, cut to save room: {head} …]"
CUT_RESULT_HEAD = 120


class TrimmedModel(WholeAnswerModel, WrapperModel):
    """Sends the wrapped model the tools in `names` and those it found, and results cut to its context.

    `compact`: shorter schemas.
    """

    def __init__(
        self, wrapped: Model, names: frozenset[str], context_length: int | None, *, compact: bool = False
    ) -> None:
        super().__init__(wrapped)
        self._names = names
        self._compact = compact
        self._context_length = context_length or DEFAULT_CONTEXT

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Request a response with trimmed tools and results."""
        names = self._names | found_tools(messages) if FIND_TOOLS in self._names else self._names
        shown = [tool for tool in model_request_parameters.function_tools if tool.name in names]
        # Found tools come last, so that a server's prompt cache holds for all before them.
        shown.sort(key=lambda tool: tool.name not in self._names)
        if self._compact:
            shown = [
                replace(tool, parameters_json_schema=compact_schema(tool.parameters_json_schema)) for tool in shown
            ]
        return await self.wrapped.request(
            fit_results(messages, result_budget(self._context_length)),
            model_settings,
            replace(model_request_parameters, function_tools=shown),
        )


def history_messages(turns: Sequence[tuple[str, str]], context_length: int | None) -> list[ModelMessage]:
    """Messages of earlier turns: the latest ones that fit into a quarter of the budget for results."""
    budget = result_budget(context_length or DEFAULT_CONTEXT) // 4
    messages: list[ModelMessage] = []
    for question, answer in reversed(turns):
        budget -= len(question) + len(answer)
        if budget < 0:
            break
        response = ModelResponse(parts=[TextPart(answer or RESULTS_SHOWN)])
        messages = [ModelRequest(parts=[UserPromptPart(question)]), response, *messages]
    return messages


def result_budget(context_length: int) -> int:
    """Characters that all results together may take in a context of `context_length` tokens."""
    prompt = ALL_TOOLS_TOKENS if context_length >= MIN_CONTEXT_FOR_ALL_TOOLS else PROMPT_TOKENS
    return int(max(MIN_RESULT_CHARACTERS, (context_length - prompt - ANSWER_TOKENS) * CHARACTERS_PER_TOKEN))


def fit_results(messages: Sequence[ModelMessage], budget: int) -> list[ModelMessage]:
    """Cut tool results, the oldest first, until they fit into `budget` characters; each call keeps a result."""
    left, kept = budget, list[ModelMessage]()
    for message in reversed(messages):
        if isinstance(message, ModelRequest):
            parts = []
            for part in reversed(message.parts):
                if isinstance(part, ToolReturnPart) and isinstance(part.content, str):
                    text = _cut(part.content, left)
                    left -= len(text)
                    part = ToolReturnPart(part.tool_name, text, part.tool_call_id, outcome=part.outcome)
                parts.append(part)
            message = replace(message, parts=parts[::-1])
        kept.append(message)
    return kept[::-1]


def _cut(text: str, budget: int) -> str:
    if len(text) <= budget:
        return text
    if budget < MIN_RESULT_CHARACTERS // 2:
        return (
            CUT_RESULT.format(head=" ".join(text[:CUT_RESULT_HEAD].split()))
            if len(text) > CUT_RESULT_HEAD * 2
            else text
        )
    return f"{text[:budget]}\n… {len(text) - budget} more characters"
