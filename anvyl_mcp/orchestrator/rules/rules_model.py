"""The rules as a Pydantic AI model: same loop, approvals and errors, without a network.

It keeps nothing between requests: the last question and the calls made since say all, so it can take over half-way.
"""

from __future__ import annotations

from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ToolCallPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.orchestrator.language.intent import read_wish
from anvyl_mcp.orchestrator.rules import machine_power
from anvyl_mcp.orchestrator.rules.grammar import Hosts, Objects, Planner
from anvyl_mcp.orchestrator.rules.results.answers import Turn, answer, went_wrong
from anvyl_mcp.orchestrator.rules.steps import Otherwise, Step
from anvyl_mcp.orchestrator.whole_answer import WholeAnswerModel

LEFT = "The rules do not understand all that was asked: look what is left to do."
"""Error when they take over from a model in the middle of a run."""
RULES = "rules"
"""Name of this model."""


class RulesModel(WholeAnswerModel):
    """Turns a question into tool calls, and their results into sentences.

    Raises `NotUnderstood` if no rule matches, with examples from the available tools.
    """

    def __init__(
        self,
        hosts: Hosts,
        objects: Objects | None = None,
        *,
        to_the_last_word: bool = False,
        otherwise: Otherwise | None = None,
        placed: bool = False,
    ) -> None:
        """`hosts` returns the known host names, `objects` the names of all objects of a kind.

        `to_the_last_word`: accept no question of which only a part matches, because a language model comes next.
        `otherwise` reads a question that matches no phrase. `placed`: the host is known apart from the question.
        """
        super().__init__()
        self._otherwise = otherwise
        self._placed = placed
        self._strict = to_the_last_word
        self._hosts = hosts
        self._objects = objects

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
        tools = model_request_parameters.function_tools
        planner = Planner(
            tools,
            tuple(self._hosts()),
            self._objects,
            to_the_last_word=self._strict,
            otherwise=self._otherwise,
            placed=self._placed,
        )
        turn = Turn.of(messages)
        try:
            return ModelResponse(parts=await _next(planner, turn), model_name=self.model_name)
        except NotUnderstood as error:
            raise machine_power.refused(turn.question, self._hosts()) or error from None


async def _next(planner: Planner, turn: Turn) -> list[ModelResponsePart]:
    try:
        steps = await planner.steps(turn.question)
    except NotUnderstood:
        if not turn.results:
            raise
        left = LEFT if read_wish(turn.question, planner.tools.values()).intent == "change" else ""
        return [TextPart("\n".join(filter(None, [answer(planner.tools, turn), left])))]
    for index, step in enumerate(steps):
        results = [turn.result_of(call) for call in step]
        missing = [call for call, result in zip(step, results, strict=True) if result is None]
        later = [str(call) for rest in steps[index + 1 :] for call in rest]
        if missing:
            calls = [ToolCallPart(call.listing.name, call.arguments) for call in missing]
            changes = not all(call.listing.reads for call in missing)
            return [*_announced(steps[index + 1 :]), *calls] if changes else list(calls)
        if later and any(went_wrong(result) for result in results if result):
            return [TextPart(f"{answer(planner.tools, turn)}\nNot tried after that: {text.join_names(later)}.")]
    return [TextPart(answer(planner.tools, turn))]


def _announced(later: list[Step]) -> list[ModelResponsePart]:
    """Text about later steps, so that an approval covers all of them knowingly."""
    words = [f"{call}{_at(call.arguments)}" for step in later for call in step]
    return [TextPart(f"After that: {text.join_names(words)}.")] if words else []


def _at(arguments: dict[str, Any]) -> str:
    host = arguments.get("host")
    return f" on {host}" if host else ""
