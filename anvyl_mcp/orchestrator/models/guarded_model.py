"""A model under guard: a change to all of a kind becomes a call for each; a stopped run asks no model."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from pydantic_ai.messages import ModelMessage, ModelResponse, ModelResponsePart, TextPart, ToolCallPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from anvyl_mcp.core.errors import AnvylError, Conflict, NothingToDo
from anvyl_mcp.orchestrator.checks.guard import Guard
from anvyl_mcp.orchestrator.rules.results.answers import Turn
from anvyl_mcp.orchestrator.run import Run, Source
from anvyl_mcp.orchestrator.whole_answer import WholeAnswerModel

ENDED = "The results so far are the answer."
OWN = {"anvyl": "no model was asked"}
"""Marks an answer that code made in a model's place."""


def own_response(words: str, model_name: str) -> ModelResponse:
    """An answer for which no model was asked."""
    return ModelResponse(parts=[TextPart(words)], model_name=model_name, provider_details=dict(OWN))


class GuardedModel(WholeAnswerModel, WrapperModel):
    """Asks the model below it until the run is stopped; made for one run.

    The rules take over a question that they understand when they come first, or when a model does nothing about it.
    """

    def __init__(
        self,
        wrapped: Model,
        run: Run,
        guard: Guard,
        *,
        rules: Model,
        clear: Model,
        first: Model | None = None,
    ) -> None:
        """`rules` are asked when the model says nothing, `clear` when it only talks; `first`, if any, before it."""
        super().__init__(wrapped)
        self._run = run
        self._guard = guard
        self._rules = rules
        self._clear = clear
        self._first = first
        self.requests = 0
        """How often a model was really asked."""

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """The next calls or the answer; a placeholder when the results are the answer."""
        if self._run.stopped:
            self._run.responded(Source.RESULTS)
            return own_response(ENDED, self.wrapped.model_name)
        begun = bool(Turn.of(messages).calls)
        first = self._first if not begun or self._run.by_rules else None
        if first and (planned := await self._understood(first, messages, model_request_parameters)):
            return planned
        response = await self.wrapped.request(messages, model_settings, model_request_parameters)
        self.requests += response.provider_details != OWN
        self._run.responded(Source.RULES if response.model_name == self._rules.model_name else Source.MODEL)
        if response.text == ENDED:
            self._run.responded(Source.RESULTS)
        idle = not begun and not response.tool_calls and "?" not in (response.text or "")
        # A model that says that it cannot has answered, unless the rules account for every word.
        behind = self._clear if (response.text or "").strip() else self._rules
        if idle and (instead := await self._understood(behind, messages, model_request_parameters)):
            self._first = behind
            return replace(instead, usage=response.usage, provider_details=response.provider_details)
        parts = [one for part in response.parts for one in await self._spread(part, model_request_parameters)]
        return replace(response, parts=_with_own_ids(parts, messages))

    async def _understood(
        self, rules: Model, messages: list[ModelMessage], offered: ModelRequestParameters
    ) -> ModelResponse | None:
        """What the rules make of the question; None when they do not understand it.

        Raises:
            Conflict: it leaves open which of several things is meant.
        """
        try:
            response = await rules.request(messages, None, offered)
        except (Conflict, NothingToDo):
            raise
        except AnvylError:
            return None
        self._run.responded(Source.RULES)
        return replace(response, parts=_with_own_ids(response.parts, messages))

    async def _spread(self, part: ModelResponsePart, offered: ModelRequestParameters) -> list[ModelResponsePart]:
        tool = next((one for one in offered.function_tools if one.name == getattr(part, "tool_name", "")), None)
        if self._run.by_rules or not (isinstance(part, ToolCallPart) and tool and tool.metadata):
            return [part]
        calls = await self._guard.spread(tool.metadata["listing"], part.args_as_dict())
        return [ToolCallPart(part.tool_name, arguments) for arguments in calls] or [part]


def _with_own_ids(parts: Sequence[ModelResponsePart], messages: Sequence[ModelMessage]) -> list[ModelResponsePart]:
    """Calls whose ids no earlier call has: an approval is bound to an id, and some servers count anew each time."""
    taken = {part.tool_call_id for message in messages for part in message.parts if isinstance(part, ToolCallPart)}
    own: list[ModelResponsePart] = []
    for part in parts:
        if isinstance(part, ToolCallPart):
            part = replace(part, tool_call_id=f"call_{uuid.uuid4().hex[:9]}") if part.tool_call_id in taken else part
            taken.add(part.tool_call_id)
        own.append(part)
    return own
