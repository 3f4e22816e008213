"""What a language model gets to see: the tools chosen for the question, and results that fit into its context.

The run itself keeps every tool and every result whole: the rules may use them, and the person sees them.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
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

from anvyl_mcp.orchestrator.whole_answer import WholeAnswerModel

CHARACTERS_A_TOKEN = 3.2
PROMPT_TOKENS, ANSWER_TOKENS = 2300, 500
LARGE_CONTEXT = 32_768
"""Assumed when the server does not say."""
LEAST_ROOM = 1200
"""Characters of a result that are shown in any case."""
SHOWN = "(The results were shown to the person.)"
GONE = "[an earlier result, cut to save room: {head} …]"
HEAD = 120


class ShownModel(WholeAnswerModel, WrapperModel):
    """Asks the model below with less than there is."""

    def __init__(self, wrapped: Model, names: Container[str], context_length: int | None) -> None:
        super().__init__(wrapped)
        self._names = names
        self._context_length = context_length or LARGE_CONTEXT

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """One answer."""
        shown = [tool for tool in model_request_parameters.function_tools if tool.name in self._names]
        return await self.wrapped.request(
            fitted(messages, room_for(self._context_length)),
            model_settings,
            replace(model_request_parameters, function_tools=shown),
        )


def history(turns: Sequence[tuple[str, str]], context_length: int | None) -> list[ModelMessage]:
    """What was said and answered before, as messages: the latest that fit into a quarter of the room for results."""
    room = room_for(context_length or LARGE_CONTEXT) // 4
    messages: list[ModelMessage] = []
    for asked, answered in reversed(turns):
        room -= len(asked) + len(answered)
        if room < 0:
            break
        answer = ModelResponse(parts=[TextPart(answered or SHOWN)])
        messages = [ModelRequest(parts=[UserPromptPart(asked)]), answer, *messages]
    return messages


def room_for(context_length: int) -> int:
    """How many characters all results together may take in a context of so many tokens."""
    return int(max(LEAST_ROOM, (context_length - PROMPT_TOKENS - ANSWER_TOKENS) * CHARACTERS_A_TOKEN))


def fitted(messages: Sequence[ModelMessage], room: int) -> list[ModelMessage]:
    """The messages with results cut, the oldest first, until all of them fit; no call loses its result."""
    left, kept = room, list[ModelMessage]()
    for message in reversed(messages):
        if isinstance(message, ModelRequest):
            parts = []
            for part in reversed(message.parts):
                if isinstance(part, ToolReturnPart) and isinstance(part.content, str):
                    words = _cut(part.content, left)
                    left -= len(words)
                    part = ToolReturnPart(part.tool_name, words, part.tool_call_id, outcome=part.outcome)
                parts.append(part)
            message = replace(message, parts=parts[::-1])
        kept.append(message)
    return kept[::-1]


def _cut(words: str, room: int) -> str:
    if len(words) <= room:
        return words
    if room < LEAST_ROOM // 2:
        return GONE.format(head=" ".join(words[:HEAD].split())) if len(words) > HEAD * 2 else words
    return f"{words[:room]}\n… {len(words) - room} more characters"
