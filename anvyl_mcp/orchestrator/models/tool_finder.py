"""One tool that shows a capable model the rarely needed ones, so that those it always sees stay few."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_ai import RunContext, ToolReturn
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, ToolCallPart, ToolReturnPart
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from anvyl_mcp.orchestrator.models.tool_subset import rare_tools
from anvyl_mcp.orchestrator.run import Run
from anvyl_mcp.peers.connection.listing import ToolListing

FIND_TOOLS = "find_tools"
ARGUMENTS = SchemaValidator(core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema()))
SCHEMA = {
    "type": "object",
    "properties": {"subject": {"type": "string", "description": "subject or name, several separated by commas"}},
    "required": ["subject"],
}


class ToolFinder(AbstractToolset[Run]):
    """The tool `find_tools`: its description says which rare tools there are, a call makes some of them callable."""

    def __init__(self, catalogue: Mapping[str, ToolListing]) -> None:
        self._rare = rare_tools(catalogue)

    @property
    def id(self) -> str:
        """Constant, because there is one catalogue."""
        return FIND_TOOLS

    async def get_tools(self, ctx: RunContext[Run]) -> dict[str, ToolsetTool[Run]]:
        """The one tool; none if no tool is rare."""
        if not self._rare:
            return {}
        definition = ToolDefinition(
            name=FIND_TOOLS,
            description=f"Get more tools, then call them. {describe(self._rare)}",
            parameters_json_schema=SCHEMA,
            strict=False,
        )
        return {FIND_TOOLS: ToolsetTool(toolset=self, tool_def=definition, max_retries=3, args_validator=ARGUMENTS)}

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Run], tool: ToolsetTool[Run]
    ) -> ToolReturn:
        """Name the tools that can be called from now on: those that are named, else those on a subject, else all."""
        wanted = set(re.findall(r"\w+", " ".join(map(str, tool_args.values())).lower()))
        words = {word for one in wanted for word in one.split("_")}
        found = [one for one in self._rare if one in wanted]
        found = found or [one for one, listing in self._rare.items() if words & _subjects(listing)] or list(self._rare)
        return ToolReturn(f"You can now call {', '.join(found)}.", metadata={FIND_TOOLS: found})


def describe(rare: Mapping[str, ToolListing]) -> str:
    """The tools by subject: `networks: create, remove, connect. swarm: list_nodes, create_service.`"""
    subjects: dict[str, list[str]] = {}
    for name, listing in rare.items():
        verb, _, noun = name.partition("_")
        subjects.setdefault(listing.toolset, []).append(verb if noun in _subjects(listing) else name)
    return " ".join(f"{subject}: {', '.join(names)}." for subject, names in subjects.items())


def found_tools(messages: Sequence[ModelMessage]) -> frozenset[str]:
    """Names of the tools that a model has asked for or called in these messages."""
    names: set[str] = set()
    for message in messages:
        for part in message.parts:
            if isinstance(message, ModelResponse) and isinstance(part, ToolCallPart):
                names.add(part.tool_name)
            elif isinstance(message, ModelRequest) and isinstance(part, ToolReturnPart):
                found = part.metadata.get(FIND_TOOLS, ()) if isinstance(part.metadata, dict) else ()
                names.update(found)
    return frozenset(names)


def _subjects(listing: ToolListing) -> set[str]:
    return {listing.toolset, listing.toolset.removesuffix("s")}
