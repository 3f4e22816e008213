"""The fleet as one agent toolset: each tool once, with an argument `host`, for any number of hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_ai import ApprovalRequired, RunContext, ToolFailed, ToolReturn, UsageLimitExceeded
from pydantic_ai.messages import INVALID_JSON_KEY, ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from anvyl_mcp.core.errors import AnvylError, ModelUnavailable, NothingToDo
from anvyl_mcp.orchestrator.ask.fleet_calls import FleetCalls, OverBudget, RepeatedCall
from anvyl_mcp.orchestrator.rules.results.answers import result_metadata
from anvyl_mcp.orchestrator.run import Run
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.gateway import fenced_answers, host_argument

ANY_ARGUMENTS = SchemaValidator(core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema()))
HOST = {"type": "string", "description": "host, hosts separated by commas, or all"}
MOST_CHARACTERS = 6000
"""Of a tool result for a model: about 1,500 tokens."""


class FleetToolset(AbstractToolset[Run]):
    """Offers the fleet to an agent; the calls are checked, proposed and made by `FleetCalls`."""

    def __init__(self, fleet: Fleet, calls: FleetCalls) -> None:
        self._fleet = fleet
        self._calls = calls
        self._tools = {name: self._tool(listing) for name, listing in fleet.catalogue.items()}

    @property
    def id(self) -> str:
        """Constant, because there is one fleet."""
        return "fleet"

    async def get_tools(self, ctx: RunContext[Run]) -> dict[str, ToolsetTool[Run]]:
        """The tools of the catalogue, independent of the hosts."""
        return dict(self._tools)

    async def get_instructions(self, ctx: RunContext[Run]) -> str:
        """The hosts of this question, after all constant instructions so that a model can cache those."""
        names = ", ".join(self._described(name) for name in self._fleet.hosts)
        question = ctx.deps.question
        only = f" This question is only about {question.host}." if question.host else ""
        if question.home and not only:
            only = f" Where this question names no host, it is about {question.home}."
        return f"Hosts: {names}.{only}"

    def _described(self, name: str) -> str:
        """A host with what else a person may call it: `nas (this one, @home)`."""
        words = ["this one"] if name == self._fleet.local.name else []
        words += [f"@{tag}" for tag in self._fleet.peers[name].tags]
        return f"{name} ({', '.join(words)})" if words else name

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Run], tool: ToolsetTool[Run]
    ) -> ToolReturn:
        """Run one tool on its hosts, or propose a change that has not been approved yet."""
        run, call_id = ctx.deps, ctx.tool_call_id or ""
        approved = run.proposals.get(call_id) if ctx.tool_call_approved else None
        try:
            if approved:
                call = self._calls.approved(approved)
            elif INVALID_JSON_KEY in tool_args:
                raise self._calls.refused(name, tool_args, _not_json_error(name), run)
            else:
                created = self._calls.created_by(_calls_of_response(ctx.messages))
                call = await self._calls.check(name, tool_args, run, call_id, created=created)
        except NothingToDo as done:
            return ToolReturn(f"{done.message}.", metadata={})
        except OverBudget as error:
            raise UsageLimitExceeded(str(error)) from error
        except RepeatedCall as error:
            raise ToolFailed(str(error)) from error
        except AnvylError as error:
            # Hints for a model name arguments instead of flags; the rules show errors to the user.
            raise ToolFailed(str(error if run.by_rules else error.for_tool_caller())) from error
        if call.waits:
            raise ApprovalRequired()
        outcomes = await self._calls.make(call, run)
        return ToolReturn(
            fenced_answers.render(outcomes, call.listing, MOST_CHARACTERS),
            metadata=result_metadata(outcomes, call.listing),
        )

    def _tool(self, listing: ToolListing) -> ToolsetTool[Run]:
        definition = ToolDefinition(
            name=listing.name,
            description=listing.description,
            parameters_json_schema=host_argument.schema(listing, HOST),
            strict=False,
            metadata={"listing": listing},
        )
        return ToolsetTool(toolset=self, tool_def=definition, max_retries=3, args_validator=ANY_ARGUMENTS)


def _not_json_error(name: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"the model sent arguments for `{name}` that are not JSON",
        hint="try a larger model, or let this one plan: export ANVYL_DRIVE=plan",
        call_hint="make the call again, with one JSON object as arguments",
    )


def _calls_of_response(messages: Sequence[ModelMessage]) -> list[tuple[str, dict[str, Any]]]:
    """Tool and arguments of the calls of the last response."""
    response = next((one for one in reversed(messages) if isinstance(one, ModelResponse)), None)
    calls = [part for part in (response.parts if response else ()) if isinstance(part, ToolCallPart)]
    return [(call.tool_name, call.args_as_dict()) for call in calls]
