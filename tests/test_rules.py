"""The rules: phrases become calls, results become sentences, and what is not understood changes nothing."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent, AgentRunResultEvent, ApprovalRequired, DeferredToolRequests, RunContext, ToolDenied
from pydantic_ai import ToolFailed, ToolReturn
from pydantic_ai.capabilities import HandleDeferredToolCalls
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.tools import DeferredToolResults, ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from anvyl_mcp.errors import NotUnderstood
from anvyl_mcp.orchestrator.rules import rules_model
from anvyl_mcp.peers.listing import Safety, ToolListing

DATA = Path(__file__).parent / "data" / "rules"
HOSTS = ("nas", "web1", "gpu")
ANYTHING = SchemaValidator(core_schema.any_schema())

Fields = dict[str, Any]
TEXT = {"type": "string", "default": ""}
NUMBER = {"type": "integer", "default": 10}
FLAG = {"type": "boolean", "default": False}
TEXTS = {"type": "array", "items": {"type": "string"}, "default": []}
NEEDED = {"type": "string"}
CONTAINER = {"type": "string", "x-names": "container"}
USAGE = {"type": "object", "properties": {"used": {}, "total": {}, "percent": {}}}


def fields(*names: str, **more: Fields) -> Fields:
    return {"type": "object", "properties": {**{name: {"type": "string"} for name in names}, **more}}


def rows(name: str, *columns: str) -> Fields:
    row = {**fields(*columns), "columns": list(columns)}
    return fields("total", "more", **{name: {"type": "array", "items": row}})


STATE = fields("id", "name", "image", "state")


def tool(
    name: str, description: str, say: Sequence[str], arguments: Fields, output: Fields, safety: Safety = "reads"
) -> ToolListing:
    required = [argument for argument, schema in arguments.items() if "default" not in schema]
    schema = {"type": "object", "properties": arguments, "required": required}
    toolset = "fleet" if name == "list_hosts" else "containers"
    return ToolListing(name, description, schema, output, toolset=toolset, safety=safety, say=tuple(say))


TOOLS = [
    tool(
        "list_containers",
        "List containers with their state, image and ports.",
        ["list containers", "show containers", "what is running", "ps"],
        {"all": FLAG, "name": TEXT, "label": TEXT, "limit": NUMBER},
        rows("containers", "name", "image", "state", "status", "health", "ports"),
    ),
    tool(
        "get_container_info",
        "Show one container in detail: command, environment, mounts, networks, exit code.",
        ["inspect {name}", "show details of {name}", "info about {name}"],
        {"name": CONTAINER},
        fields("id", "name", "image", "state", "status", "health", "ports", "env", "networks", "exit_code"),
    ),
    tool("start_container", "Start a stopped container.", ["start {name}"], {"name": CONTAINER}, STATE, "changes"),
    tool(
        "stop_container",
        "Stop a running container.",
        ["stop {name}", "shut down {name}"],
        {"name": CONTAINER, "timeout": NUMBER},
        STATE,
        "changes",
    ),
    tool("restart_container", "Restart a container.", ["restart {name}"], {"name": CONTAINER}, STATE, "changes"),
    tool(
        "remove_container",
        "Remove a container for good.",
        ["remove {name}", "delete {name}"],
        {"name": CONTAINER, "force": FLAG},
        fields("id", "name", "removed"),
        "destroys",
    ),
    tool(
        "create_container",
        "Create a container from an image and start it.",
        ["run image {image}", "create container {name} from {image}", "run {image} as {name}"],
        {"image": NEEDED, "name": TEXT, "command": TEXT, "ports": TEXTS, "env": TEXTS, "memory": TEXT},
        STATE,
        "changes",
    ),
    tool(
        "get_container_logs",
        "Show the last lines a container logged.",
        ["show logs of {name}", "logs {name}"],
        {"name": CONTAINER, "tail": NUMBER, "since": TEXT, "grep": TEXT},
        fields("lines", "truncated", "next_since"),
    ),
    tool(
        "list_images",
        "List images with their tags and sizes.",
        ["list images", "show images"],
        {"limit": NUMBER},
        rows("images", "tags", "size", "created", "id"),
    ),
    tool(
        "get_host_info",
        "Show the machine: operating system, cpus, memory, uptime, Docker engine version.",
        ["host info", "show host info", "what kind of machine is this"],
        {},
        fields("name", "os", "kernel", "cpus", "memory_total", engine=fields("version", "containers_running", "images")),
    ),
    tool(
        "get_host_resources",
        "Show how busy the machine is: cpu, load, memory and disk space used and total.",
        ["host resources", "get host resources", "show cpu and memory", "how busy is the host", "system health"],
        {},
        fields("cpu_percent", "load", memory=USAGE, disks={"type": "array", "items": USAGE}),
    ),
    tool(
        "execute_command",
        "Run a command on the machine itself, not in a container.",
        ["run command {command}", "execute {command}"],
        {"command": NEEDED, "timeout": NUMBER},
        fields("exit_code", "stdout", "stderr"),
        "destroys",
    ),
    tool("list_hosts", "List the hosts of the fleet.", ["list hosts", "show hosts"], {}, rows("hosts", "name", "status")),
]
LISTINGS = {listing.name: listing for listing in TOOLS}


def entry(result: Mapping[str, Any] | None = None, text: str = "", error: str | None = None) -> Fields:
    return {"ok": error is None, "result": result, "text": text, "error": error}


@dataclass
class Fleet(AbstractToolset[None]):
    """Toy hosts: `answers` says what each host answers to a tool, or what is raised instead."""

    answers: dict[str, dict[str, Fields] | Exception] = field(default_factory=dict)
    calls: list[tuple[str, Fields]] = field(default_factory=list)
    approvals: bool = False

    @property
    def id(self) -> str:
        return "fleet"

    async def get_tools(self, ctx: RunContext[None]) -> dict[str, ToolsetTool[None]]:
        return {listing.name: self._tool(listing) for listing in TOOLS}

    def _tool(self, listing: ToolListing) -> ToolsetTool[None]:
        host = {} if listing.toolset == "fleet" else {"host": {"type": "string"}}
        schema = {"type": "object", "properties": {**listing.arguments, **host}}
        definition = ToolDefinition(
            name=listing.name,
            description=listing.description,
            parameters_json_schema=schema,
            metadata={"listing": listing},
        )
        return ToolsetTool(toolset=self, tool_def=definition, max_retries=1, args_validator=ANYTHING)

    async def call_tool(
        self, name: str, tool_args: Fields, ctx: RunContext[None], tool: ToolsetTool[None]
    ) -> ToolReturn:
        if self.approvals and not LISTINGS[name].reads and not ctx.tool_call_approved:
            raise ApprovalRequired()
        self.calls.append((name, tool_args))
        answer = self.answers.get(name, {"nas": entry({}, "fine")})
        if isinstance(answer, Exception):
            raise answer
        return ToolReturn("as a model reads it", metadata={"hosts": answer, "listing": LISTINGS[name]})


def agent(fleet: Fleet, **options: Any) -> Agent[None, str]:
    return Agent(rules_model(hosts=lambda: HOSTS), toolsets=[fleet], **options)


async def ask(question: str, **answers: dict[str, Fields] | Exception) -> str:
    return (await agent(Fleet(answers)).run(question)).output


def requested(messages: Sequence[ModelMessage]) -> list[list[tuple[str, Fields]]]:
    """The calls of each response that made some."""
    responses = [message for message in messages if isinstance(message, ModelResponse)]
    made = [[(call.tool_name, call.args_as_dict()) for call in response.tool_calls] for response in responses]
    return [calls for calls in made if calls]


def table(name: str) -> dict[str, list[str]]:
    return tomllib.loads((DATA / name).read_text(encoding="utf-8"))


def expected(step: str) -> list[tuple[str, Fields]]:
    return [(call.split(" ", 1)[0], json.loads(call.split(" ", 1)[1])) for call in step.split(" & ")]


@pytest.mark.parametrize(("question", "steps"), table("understood.toml").items())
async def test_a_phrase_becomes_the_calls_it_asks_for(question: str, steps: list[str]) -> None:
    result = await agent(Fleet()).run(question)
    assert requested(result.all_messages()) == [expected(step) for step in steps]


@pytest.mark.parametrize("question", [one for group in table("not_understood.toml").values() for one in group])
async def test_what_is_no_phrase_is_refused_and_calls_nothing(question: str) -> None:
    fleet = Fleet()
    with pytest.raises(NotUnderstood):
        await agent(fleet).run(question)
    assert fleet.calls == []
