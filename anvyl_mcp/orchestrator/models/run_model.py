"""The model of one run: the rules answer before or instead of a language model, and it stops with the run."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from pydantic_ai.messages import ModelMessage, ModelResponse, ModelResponsePart, TextPart, ToolCallPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from anvyl_mcp.core.errors import AnvylError, Conflict, NothingToDo
from anvyl_mcp.orchestrator.rules.results.answers import RULES, Turn
from anvyl_mcp.orchestrator.run import Responder, Run
from anvyl_mcp.orchestrator.whole_answer import WholeAnswerModel

RESULTS_ANSWER = "The results so far are the answer."
WITHOUT_MODEL = {"anvyl": "no model was asked"}
"""Provider details of a response that was made without a model."""


def local_response(text: str, model_name: str) -> ModelResponse:
    """Response made without asking a model."""
    return ModelResponse(parts=[TextPart(text)], model_name=model_name, provider_details=dict(WITHOUT_MODEL))


class RunModel(WholeAnswerModel, WrapperModel):
    """Asks the wrapped model until the run is stopped; one instance per run.

    The rules answer questions that they understand, before the model if `first` is set, or when the model does nothing;
    never if `rules` is None.
    """

    def __init__(
        self,
        wrapped: Model,
        run: Run,
        *,
        rules: Model | None,
        strict_rules: Model | None,
        first: Model | None = None,
    ) -> None:
        """`rules` are asked if the response is empty, `strict_rules` if it is only text, `first` before the model."""
        super().__init__(wrapped)
        self._run = run
        self._rules = rules
        self._strict_rules = strict_rules
        self._first = first
        self.requests = 0
        """Number of requests that reached a model."""

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Return the next calls or the answer; a placeholder if the results are the answer."""
        if self._run.stopped:
            self._run.record_response(Responder.RESULTS)
            return local_response(RESULTS_ANSWER, self.wrapped.model_name)
        started = bool(Turn.of(messages).calls)
        first = self._first if not started or self._run.by_rules else None
        if first and (planned := await self._ask_rules(first, messages, model_request_parameters)):
            return planned
        response = await self.wrapped.request(messages, model_settings, model_request_parameters)
        self.requests += response.provider_details != WITHOUT_MODEL
        self._run.record_response(Responder.RULES if response.model_name == RULES else Responder.MODEL)
        if started and not response.tool_calls and not (response.text or "").strip():
            response = replace(response, parts=[TextPart(RESULTS_ANSWER)])
        if response.text == RESULTS_ANSWER:
            self._run.record_response(Responder.RESULTS)
        idle = not started and not response.tool_calls and "?" not in (response.text or "")
        # A text is an answer; of a small model, unless the rules account for every word.
        fallback = self._strict_rules if (response.text or "").strip() else self._rules
        if idle and fallback and (replacement := await self._ask_rules(fallback, messages, model_request_parameters)):
            self._first = fallback
            return replace(replacement, usage=response.usage, provider_details=response.provider_details)
        return replace(response, parts=_with_unique_ids(response.parts, messages))

    async def _ask_rules(
        self, rules: Model, messages: list[ModelMessage], offered: ModelRequestParameters
    ) -> ModelResponse | None:
        """Response of the rules; None if they do not understand the question.

        Raises:
            Conflict: the question is ambiguous.
        """
        try:
            response = await rules.request(messages, None, offered)
        except (Conflict, NothingToDo):
            raise
        except AnvylError:
            return None
        self._run.record_response(Responder.RULES)
        return replace(response, parts=_with_unique_ids(response.parts, messages))


def _with_unique_ids(parts: Sequence[ModelResponsePart], messages: Sequence[ModelMessage]) -> list[ModelResponsePart]:
    """Parts with unique call ids: approvals are bound to an id, and some servers restart their numbering each time."""
    taken = {part.tool_call_id for message in messages for part in message.parts if isinstance(part, ToolCallPart)}
    unique: list[ModelResponsePart] = []
    for part in parts:
        if isinstance(part, ToolCallPart):
            part = replace(part, tool_call_id=f"call_{uuid.uuid4().hex[:9]}") if part.tool_call_id in taken else part
            taken.add(part.tool_call_id)
        unique.append(part)
    return unique
