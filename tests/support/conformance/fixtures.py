"""Tools, resources and prompts that the official conformance suite expects, as a separate MCPServer.

Names, texts and schemas come from the suite: @modelcontextprotocol/conformance 0.2.0-alpha.12.
"""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, TypeVar

import anyio
import mcp.types as t
from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from pydantic import BaseModel, Field

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = base64.b64encode(
    b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x40\x1f\x00\x00\x01\x00\x08\x00data"
    b"\x00\x00\x00\x00"
).decode()
SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

Answer = TypeVar("Answer", bound=BaseModel)
Asked = str | t.InputRequiredResult


class Who(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


def fixtures() -> MCPServer[Any]:
    """Create a server with all fixtures."""
    server: MCPServer[Any] = MCPServer("fixtures", log_level="ERROR")
    for add in (contents, talking, asking, resources, prompts, changes):
        add(server)
    for tool in server._tool_manager.list_tools():
        tool.description = tool.description or f"Conformance fixture {tool.name}."
    return server


def words(value: str) -> t.TextContent:
    return t.TextContent(type="text", text=value)


def image() -> t.ImageContent:
    return t.ImageContent(type="image", data=PNG, mime_type="image/png")


def embedded(uri: str, body: str, mime_type: str = "text/plain") -> t.EmbeddedResource:
    return t.EmbeddedResource(type="resource", resource=t.TextResourceContents(uri=uri, mime_type=mime_type, text=body))


def elicit(message: str, **fields: str) -> t.ElicitRequest:
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in fields.items()},
        "required": list(fields),
    }
    return t.ElicitRequest(params=t.ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(message: str, tokens: int = 100) -> t.CreateMessageRequest:
    said = t.SamplingMessage(role="user", content=words(message))
    return t.CreateMessageRequest(params=t.CreateMessageRequestParams(messages=[said], max_tokens=tokens))


def need(requests: dict[str, Any], state: str | None = None) -> t.InputRequiredResult:
    return t.InputRequiredResult(input_requests=requests, request_state=state)


def got(ctx: Context[Any], key: str, kind: type[Answer]) -> Answer | None:
    value = (ctx.input_responses or {}).get(key)
    return value if isinstance(value, kind) else None


def content(answer: t.ElicitResult | None) -> dict[str, Any]:
    return dict(answer.content or {}) if answer is not None and answer.action == "accept" else {}


def contents(server: MCPServer[Any]) -> None:
    """Tools that return every kind of content."""

    @server.tool()
    def test_simple_text() -> str:
        return "This is a simple text response for testing."

    @server.tool()
    def test_image_content() -> list[t.ImageContent]:
        return [image()]

    @server.tool()
    def test_audio_content() -> list[t.AudioContent]:
        return [t.AudioContent(type="audio", data=WAV, mime_type="audio/wav")]

    @server.tool()
    def test_embedded_resource() -> list[t.EmbeddedResource]:
        return [embedded("test://embedded-resource", "This is an embedded resource content.")]

    @server.tool()
    def test_multiple_content_types() -> list[t.ContentBlock]:
        mixed = embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json")
        return [words("Multiple content types test:"), image(), mixed]

    @server.tool()
    def test_error_handling() -> str:
        raise ToolError("This tool intentionally returns an error for testing")

    @server.tool()
    def test_x_mcp_header(
        region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "",
        priority: Annotated[int, Field(json_schema_extra={"x-mcp-header": "Priority"})] = 0,
        verbose: Annotated[bool, Field(json_schema_extra={"x-mcp-header": "Verbose"})] = False,
    ) -> str:
        return f"{region} {priority} {verbose}"

    @server.tool()
    def json_schema_2020_12_tool(name: str = "", contactMethod: str = "", phone: str = "", email: str = "") -> str:  # noqa: N803  the suite's names
        return "ok"

    listed = server._tool_manager.get_tool("json_schema_2020_12_tool")
    assert listed is not None
    listed.parameters = SCHEMA_2020_12


def talking(server: MCPServer[Any]) -> None:
    """Tools that send logs, progress or requests while they run."""

    @server.tool()
    async def test_tool_with_logging(ctx: Context[Any]) -> str:
        for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await ctx.session.send_log_message(level="info", data=message, related_request_id=ctx.request_id)
            await anyio.sleep(0.05)
        return "done"

    @server.tool()
    async def test_tool_with_progress(ctx: Context[Any]) -> str:
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100)
            await anyio.sleep(0.05)
        return "done"

    @server.tool()
    async def test_sampling(prompt: str, ctx: Context[Any]) -> str:
        said = t.SamplingMessage(role="user", content=words(prompt))
        answer = await ctx.session.create_message(messages=[said], max_tokens=100, related_request_id=ctx.request_id)
        assert isinstance(answer.content, t.TextContent)
        return f"LLM response: {answer.content.text}"

    @server.tool()
    async def test_elicitation(message: str, ctx: Context[Any]) -> str:
        return f"User response: {(await ctx.elicit(message, Who)).action}"

    async def form(ctx: Context[Any], **properties: Any) -> str:
        answer = await ctx.session.elicit_form(
            message="fill in",
            requested_schema={"type": "object", "properties": properties},
            related_request_id=ctx.request_id,
        )
        return f"Elicitation completed: action={answer.action}, content={json.dumps(answer.content)}"

    @server.tool()
    async def test_elicitation_sep1034_defaults(ctx: Context[Any]) -> str:
        states = ["active", "inactive", "pending"]
        return await form(
            ctx,
            name={"type": "string", "default": "John Doe"},
            age={"type": "integer", "default": 30},
            score={"type": "number", "default": 95.5},
            status={"type": "string", "enum": states, "default": "active"},
            verified={"type": "boolean", "default": True},
        )

    @server.tool()
    async def test_elicitation_sep1330_enums(ctx: Context[Any]) -> str:
        plain = ["option1", "option2", "option3"]
        names = ["Option One", "Option Two", "Option Three"]

        def titled(word: str) -> list[dict[str, str]]:
            numbers = enumerate(("First", "Second", "Third"), 1)
            return [{"const": f"value{number}", "title": f"{name} {word}"} for number, name in numbers]

        return await form(
            ctx,
            untitledSingle={"type": "string", "enum": plain},
            titledSingle={"type": "string", "oneOf": titled("Option")},
            legacyEnum={"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": names},
            untitledMulti={"type": "array", "items": {"type": "string", "enum": plain}},
            titledMulti={"type": "array", "items": {"anyOf": titled("Choice")}},
        )

    @server.tool()
    async def test_reconnection(ctx: Context[Any]) -> str:
        await ctx.close_sse_stream()
        await anyio.sleep(0.2)
        return "Reconnection test completed successfully"

    @server.tool()
    async def test_missing_capability(ctx: Context[Any]) -> str:
        if not (ctx.client_capabilities and ctx.client_capabilities.sampling is not None):
            needed: dict[str, Any] = {"requiredCapabilities": {"sampling": {}}}
            raise MCPError(t.MISSING_REQUIRED_CLIENT_CAPABILITY, "sampling required", needed)
        return "ok"


def asking(server: MCPServer[Any]) -> None:
    """Tools that need input, as in protocol 2026-07-28: they return the required requests and are called again."""

    @server.tool()
    async def test_input_required_result_elicitation(ctx: Context[Any]) -> Asked:
        answer = got(ctx, "user_name", t.ElicitResult)
        if answer is None:
            return need({"user_name": elicit("What is your name?", name="string")})
        return f"Hello, {content(answer).get('name')}!"

    @server.tool()
    async def test_input_required_result_sampling(ctx: Context[Any]) -> Asked:
        answer = got(ctx, "capital_question", t.CreateMessageResult)
        if answer is None:
            return need({"capital_question": sample("What is the capital of France?")})
        assert isinstance(answer.content, t.TextContent)
        return answer.content.text

    @server.tool()
    async def test_input_required_result_list_roots(ctx: Context[Any]) -> Asked:
        answer = got(ctx, "client_roots", t.ListRootsResult)
        if answer is None:
            return need({"client_roots": t.ListRootsRequest()})
        return ", ".join(str(root.uri) for root in answer.roots)

    def confirmed(ctx: Context[Any], done: str) -> Asked:
        if got(ctx, "confirm", t.ElicitResult) and ctx.request_state == "s1":
            return done
        return need({"confirm": elicit("Please confirm", ok="boolean")}, "s1")

    @server.tool()
    async def test_input_required_result_request_state(ctx: Context[Any]) -> Asked:
        return confirmed(ctx, "state-ok")

    @server.tool()
    async def test_input_required_result_tampered_state(ctx: Context[Any]) -> Asked:
        return confirmed(ctx, "ok")

    @server.tool()
    async def test_input_required_result_multiple_inputs(ctx: Context[Any]) -> Asked:
        wanted = {
            "user_name": (t.ElicitResult, elicit("What is your name?", name="string")),
            "greeting": (t.CreateMessageResult, sample("Generate a greeting", 50)),
            "client_roots": (t.ListRootsResult, t.ListRootsRequest()),
        }
        if all(isinstance((ctx.input_responses or {}).get(key), kind) for key, (kind, _) in wanted.items()):
            return "all inputs received"
        return need({key: request for key, (_, request) in wanted.items()}, "m1")

    @server.tool()
    async def test_input_required_result_multi_round(ctx: Context[Any]) -> Asked:
        if ctx.request_state == "r2" and (answer := got(ctx, "step2", t.ElicitResult)):
            return f"done {content(answer)}"
        if ctx.request_state == "r1" and got(ctx, "step1", t.ElicitResult):
            return need({"step2": elicit("Step 2: What is your favorite color?", color="string")}, "r2")
        return need({"step1": elicit("Step 1: What is your name?", name="string")}, "r1")

    @server.tool()
    async def test_input_required_result_capabilities(ctx: Context[Any]) -> t.InputRequiredResult:
        can = ctx.client_capabilities
        requests: dict[str, Any] = {}
        if can and can.sampling is not None:
            requests["greeting"] = sample("hi")
        if can and can.elicitation is not None:
            requests["user_name"] = elicit("What is your name?", name="string")
        return need(requests, "c1")


def resources(server: MCPServer[Any]) -> None:
    """Resources of every kind."""

    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        return base64.b64decode(PNG)

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.resource("test://watched-resource", mime_type="text/plain")
    def watched() -> str:
        return "watched"


def prompts(server: MCPServer[Any]) -> None:
    """Prompts of every kind."""

    @server.prompt(description="Simple.")
    def test_simple_prompt() -> str:
        return "This is a simple prompt for testing."

    @server.prompt(description="With arguments.")
    def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt(description="With a resource.")
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803  the suite's name
        inside = embedded(resourceUri, "Embedded resource content for testing.")
        return [UserMessage(inside), UserMessage("Please process the embedded resource above.")]

    @server.prompt(description="With an image.")
    def test_prompt_with_image() -> list[UserMessage]:
        return [UserMessage(image()), UserMessage("Please analyze the image above.")]

    @server.prompt(description="Needs an answer first.")
    async def test_input_required_result_prompt(ctx: Context) -> Asked:
        answer = got(ctx, "user_context", t.ElicitResult)
        if answer is None:
            return need({"user_context": elicit("What context should the prompt use?", context="string")})
        return f"Use {content(answer).get('context')}"


def changes(server: MCPServer[Any]) -> None:
    """Tools that send list changes, and methods of 2025 that MCPServer does not implement."""

    @server.tool()
    async def test_trigger_tool_change(ctx: Context[Any]) -> str:
        await ctx.notify_tools_changed()
        await ctx.session.send_tool_list_changed()
        return "ok"

    @server.tool()
    async def test_trigger_prompt_change(ctx: Context[Any]) -> str:
        await ctx.notify_prompts_changed()
        await ctx.session.send_prompt_list_changed()
        return "ok"

    async def empty(_: ServerRequestContext[Any], __: BaseModel) -> t.EmptyResult:
        return t.EmptyResult()

    async def complete(_: ServerRequestContext[Any], __: BaseModel) -> t.CompleteResult:
        return t.CompleteResult(completion=t.Completion(values=[], total=0, has_more=False))

    low = server._lowlevel_server
    low.add_request_handler("completion/complete", t.CompleteRequestParams, complete)
    low.add_request_handler("logging/setLevel", t.SetLevelRequestParams, empty)
    low.add_request_handler("resources/subscribe", t.SubscribeRequestParams, empty)
    low.add_request_handler("resources/unsubscribe", t.UnsubscribeRequestParams, empty)
