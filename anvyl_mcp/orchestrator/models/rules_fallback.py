"""Fallback to the rules after a model failure; a question that they do not understand is answered with the failure."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.orchestrator.models.servers.model_errors import next_step
from anvyl_mcp.orchestrator.whole_answer import WholeAnswerModel


class RulesAfterFailure(WholeAnswerModel, WrapperModel):
    """Rules asked after `failed_model` failed; the last of `reasons` is why."""

    def __init__(self, rules: Model, failed_model: str, reasons: Sequence[str]) -> None:
        super().__init__(rules)
        self._failed_model = failed_model
        self._reasons = reasons

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Ask the rules.

        Raises:
            NotUnderstood: the rules do not understand the question either; reports the failure of the model.
        """
        try:
            return await super().request(messages, model_settings, model_request_parameters)
        except NotUnderstood as error:
            if not self._reasons:
                raise
            reason = self._reasons[-1]
            raise NotUnderstood(
                f"the model `{self._failed_model}` failed: {reason}; the rules do not understand the question",
                hint=next_step(reason),
            ) from error
