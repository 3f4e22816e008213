"""Send a model one small question, for `anvyl doctor`: does it answer, and with a tool call if it should?

No agent or model library is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import anyio

from anvyl_mcp.core.errors import ModelUnavailable
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.orchestrator.models.servers.leaked_markup import closed_thinking, without_channels
from anvyl_mcp.orchestrator.models.servers.model_errors import ANOTHER_MODEL, next_step
from anvyl_mcp.orchestrator.models.servers.model_server import api_key, base_url, error_message, json_body, open_client
from anvyl_mcp.orchestrator.models.servers.written_calls import tool_name, unreadable_call, written_calls

SECONDS = 20.0
"""Enough for a short prompt and a short answer on a CPU."""
TOOL = "list_containers"
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": TOOL,
            "description": "List containers.",
            "parameters": {"type": "object", "properties": {"all": {"type": "boolean"}}},
        },
    }
]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Result of the probe; `summary` follows the model's name in a sentence."""

    verdict: Literal["ok", "note", "wrong"]
    summary: str
    hint: str = ""


async def probe(settings: Settings, model: str, *, with_tool: bool) -> ProbeResult:
    """Ask the model for one tool call, or for one word if `with_tool` is false."""
    asked = f"Call the tool {TOOL}." if with_tool else "Answer with the word yes."
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": asked}]
    request: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_tokens": 300,
        "temperature": 0,
        "stream": False,
    }
    if with_tool:
        request |= {"tools": TOOLS, "tool_choice": "auto"}
    url = base_url(settings)
    try:
        async with open_client(settings, api_key(settings)) as client:
            with anyio.fail_after(SECONDS):
                response = await client.post(f"{url}/chat/completions", json=request, timeout=SECONDS)
    except ModelUnavailable as error:
        return ProbeResult("wrong", f"does not answer a small question: {error.message}", error.hint)
    body = json_body(response)
    words = error_message(body.get("error")) if isinstance(body, dict) else ""
    if not response.is_success or words:
        words = words or error_message(body) or f"HTTP {response.status_code}"
        return ProbeResult(
            "wrong", f"refuses a small question{' with a tool' if with_tool else ''}: {words}", next_step(words)
        )
    if body is None:
        stream = response.text.lstrip().startswith(("data:", "event:"))
        what = "a stream of events (SSE), which was not requested" if stream else "a response that is not JSON"
        return ProbeResult("wrong", f"answers with {what}", next_step(what))
    return _judge(body, with_tool=with_tool)


def _judge(body: Any, *, with_tool: bool) -> ProbeResult:
    try:
        choice = body["choices"][0]
        message = choice["message"]
        calls, content = message.get("tool_calls") or [], message.get("content") or ""
        names = [str(call["function"]["name"]) for call in calls]
    except (KeyError, IndexError, TypeError, AttributeError):
        return ProbeResult("wrong", "answers with JSON that is not a chat completion", next_step(""))
    if not with_tool:
        return ProbeResult("ok", "it answers")
    tools: dict[str, Any] = {TOOL: {}}
    if any(tool_name(name, tools) == TOOL for name in names):
        return ProbeResult("ok", "it answers with tool calls")
    said = [str(content), *(str(message.get(key) or "") for key in ("reasoning_content", "reasoning"))]
    said = [closed_thinking(without_channels(one)).rpartition("</think>")[2] or one for one in said]
    if any(written_calls(one, tools)[1] for one in said):
        return ProbeResult("ok", "it writes tool calls as text, which Anvyl can parse")
    if any(unreadable_call(one, tools) for one in said) or choice.get("finish_reason") == "tool_calls":
        return ProbeResult("note", "answers with a tool call that cannot be read", next_step("cannot be read"))
    return ProbeResult("note", "answers with text instead of a tool call", ANOTHER_MODEL)
