"""One small question to a model, for `anvyl doctor`: whether it answers, and with a tool call when it may make one.

Nothing here imports an agent or a model library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import anyio

from anvyl_mcp.core.errors import ModelUnavailable
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.orchestrator.models.servers.leaked_markup import closed_thinking, without_channels
from anvyl_mcp.orchestrator.models.servers.model_errors import ANOTHER_MODEL, next_step
from anvyl_mcp.orchestrator.models.servers.model_server import api_key, base_url, body_of, connected, error_words
from anvyl_mcp.orchestrator.models.servers.written_calls import tool_name, unreadable_call, written_calls

SECONDS = 20.0
"""What a model on a processor alone needs for a short prompt and a short answer, and some more."""
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
class Probed:
    """How the question ended, in words that follow the model's name."""

    verdict: Literal["ok", "note", "wrong"]
    said: str
    hint: str = ""


async def probe(settings: Settings, model: str, *, with_tool: bool) -> Probed:
    """Ask the model for one call of a tool, or for one word where it is not asked for calls."""
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
        async with connected(settings, api_key(settings)) as client:
            with anyio.fail_after(SECONDS):
                response = await client.post(f"{url}/chat/completions", json=request, timeout=SECONDS)
    except ModelUnavailable as error:
        return Probed("wrong", f"does not answer a small question: {error.message}", error.hint)
    body = body_of(response)
    words = error_words(body.get("error")) if isinstance(body, dict) else ""
    if not response.is_success or words:
        words = words or error_words(body) or f"HTTP {response.status_code}"
        return Probed(
            "wrong", f"refuses a small question{' with a tool' if with_tool else ''}: {words}", next_step(words)
        )
    if body is None:
        stream = response.text.lstrip().startswith(("data:", "event:"))
        what = "a stream of events (SSE), which was not asked for" if stream else "not JSON"
        return Probed("wrong", f"answers with what is {what}", next_step(what))
    return _judged(body, with_tool=with_tool)


def _judged(body: Any, *, with_tool: bool) -> Probed:
    try:
        choice = body["choices"][0]
        message = choice["message"]
        calls, content = message.get("tool_calls") or [], message.get("content") or ""
        names = [str(call["function"]["name"]) for call in calls]
    except (KeyError, IndexError, TypeError, AttributeError):
        return Probed("wrong", "answers with what is not a chat completion", next_step(""))
    if not with_tool:
        return Probed("ok", "it answers")
    tools: dict[str, Any] = {TOOL: {}}
    if any(tool_name(name, tools) == TOOL for name in names):
        return Probed("ok", "it answers with tool calls")
    said = [str(content), *(str(message.get(key) or "") for key in ("reasoning_content", "reasoning"))]
    said = [closed_thinking(without_channels(one)).rpartition("</think>")[2] or one for one in said]
    if any(written_calls(one, tools)[1] for one in said):
        return Probed("ok", "it writes tool calls as text, which are read")
    if any(unreadable_call(one, tools) for one in said) or choice.get("finish_reason") == "tool_calls":
        return Probed("note", "answers with a tool call that cannot be read", next_step("cannot be read"))
    return Probed("note", "answers in words where a tool call was asked for", ANOTHER_MODEL)
