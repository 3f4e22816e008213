"""Client for local model servers: sends simple requests, and repairs or rejects what comes back.

Every request ends with a usable response or with a `ModelAPIError`, after which the rules take over.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio.to_thread
import httpx
from openai.types.chat import ChatCompletion
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelNotFoundError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelServerError,
    ModelTimeoutError,
    ModelUnavailableError,
)
from pydantic_ai.messages import (
    INVALID_JSON_KEY,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.settings import ModelSettings

from anvyl_mcp.core.values.arguments import coerce_arguments, parse_literal, replace_surrogates
from anvyl_mcp.orchestrator.models.servers.leaked_markup import closed_thinking, without_channels, without_tokens
from anvyl_mcp.orchestrator.models.servers.local_provider import LocalProvider
from anvyl_mcp.orchestrator.models.servers.model_server import TOKENS_READ, TOKENS_SENT, error_message, foreign_server
from anvyl_mcp.orchestrator.models.servers.written_calls import WrittenCall, tool_name, unreadable_call, written_calls
from anvyl_mcp.orchestrator.whole_answer import WholeAnswerModel

OVERFLOW = re.compile(r"context.{0,20}(?:length|size|window|overflow)|fit in context|tokens to keep|n_keep|n_ctx", re.I)
OVERFLOW_SIZE = re.compile(r"(?:context (?:length|size|window)|n_ctx)\D{0,20}?(\d{3,7})\b", re.I)
FAILURES: tuple[tuple[type[ModelAPIError], str], ...] = (
    (ModelAuthenticationError, "the model server at {url} requires a valid key: set ANVYL_LLM_API_KEY"),
    (ModelTimeoutError, "the model server at {url} did not answer in time"),
    (ModelConnectionError, "the connection to the model server at {url} failed"),
    (ModelNotFoundError, "the model server at {url} has no `{model}` ready"),
    (ModelQuotaExceededError, "the model server at {url} refused the request"),
    (ModelRateLimitError, "the model server at {url} has too many requests"),
    (ModelUnavailableError, "the model server at {url} is not ready"),
    (ModelRequestRejectedError, "the model server at {url} refused the request"),
    (ModelServerError, "the model server at {url} failed"),
    (ModelAPIError, "the answer of the model server at {url} cannot be used"),
)
NOT_JSON = re.compile(r"Failed to decode response as JSON.*")
REASONS = {"length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls"}
CHARACTERS_PER_TOKEN = 4
MIN_TOKENS = 1000
"""With an unknown context, a prompt counts as truncated only from this many tokens read on: some servers do not count
cached tokens."""
ANSWER_SECONDS = 300
"""For a whole answer: a server that sends it byte by byte never exceeds the timeout between two reads."""
MOST_CHARACTERS = 32_000
"""Of an answer's text. A model that repeats itself goes on until its context is full."""
SETTINGS = ModelSettings(temperature=0.0, max_retries=0, timeout=httpx.Timeout(ANSWER_SECONDS, connect=3))


class LocalServerModel(WholeAnswerModel, OpenAIChatModel):
    """Model on LM Studio or on any other OpenAI-compatible server."""

    def __init__(
        self,
        name: str,
        *,
        provider_name: str,
        base_url: str,
        api_key: str = "",
        context_length: int | None = None,
        allowed_user: str = "",
    ) -> None:
        self._allowed_user = allowed_user
        super().__init__(
            name,
            provider=LocalProvider(provider_name, base_url=base_url, api_key=api_key or "lm-studio"),
            profile=ModelProfile(context_window=context_length),
            settings=SETTINGS,
        )

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Request a response and repair it.

        Raises:
            ModelAPIError: the response cannot be used; the message is written for the user.
        """
        # Checked for each request: when a server stops, any user can take its port.
        if problem := await anyio.to_thread.run_sync(foreign_server, self.base_url, self._allowed_user):
            raise ModelConnectionError(self.model_name, str(problem))
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                response = await super().request(messages, model_settings, model_request_parameters)
        except ModelAPIError as error:
            raise self._readable_error(error) from error
        except TimeoutError as error:
            raise self._readable_error(ModelTimeoutError(self.model_name, "")) from error
        except (RecursionError, ValueError) as error:
            raise self._readable_error(ModelAPIError(self.model_name, "it cannot be read")) from error
        offered = model_request_parameters.function_tools
        tools = {tool.name: tool.parameters_json_schema for tool in offered}
        schemas = "".join(f"{tool.description}{json.dumps(tool.parameters_json_schema)}" for tool in offered)
        if cut := self._truncation(len(schemas) + _length(messages), response.usage.input_tokens):
            response = replace(response, provider_details={**(response.provider_details or {}), **cut})
        repaired = replace(response, parts=repaired_parts(response, tools))
        return self._require_usable(repaired, tools, answers_results=_answers_results(messages))

    def _process_response(self, response: ChatCompletion | str, **options: Any) -> ModelResponse:
        # The SDK does not validate what it parsed, so this may be anything.
        if isinstance(response, str) and response.lstrip().startswith(("data:", "event:")):
            raise ModelAPIError(self.model_name, "it is a stream of events (SSE), which was not requested")
        if not isinstance(response, ChatCompletion):
            raise ModelAPIError(self.model_name, "it is not a chat completion")
        body = replace_surrogates(response.model_dump(warnings=False))
        if words := error_message(body.get("error")):
            raise ModelAPIError(self.model_name, words, body=words)
        return super()._process_response(valid_completion(body, self.model_name), **options)

    def _readable_error(self, error: ModelAPIError) -> ModelAPIError:
        words = error_message(error.body) or (error.message if type(error) is ModelAPIError else "")
        if OVERFLOW.search(words):
            return self._overflow(words)
        words = NOT_JSON.sub("it is not JSON", words)
        category, sentence = next(row for row in FAILURES if isinstance(error, row[0]))
        message = sentence.format(model=self.model_name, url=_shown(self.base_url)) + (f": {words}" if words else "")
        wait = f"; it asks to wait {error.retry_after:.0f} s" if error.retry_after else ""
        return category(self.model_name, message + wait, body=error.body)

    def _overflow(self, words: str = "") -> ModelContextWindowExceededError:
        """Error for a prompt that is too long; a size in the server's words wins over the one it listed."""
        said = OVERFLOW_SIZE.search(words)
        window = said[1] if said else self.profile.get("context_window")
        room = f" of {window} tokens" if window else ""
        return ModelContextWindowExceededError(
            self.model_name,
            f"the question and the tools do not fit into the context{room} of `{self.model_name}`: "
            "load it with more, or ask something narrower",
        )

    def _truncation(self, characters: int, read: int) -> dict[str, int]:
        """Token counts read and sent, if the server silently truncated the prompt; else empty."""
        sent, window = characters // CHARACTERS_PER_TOKEN, self.profile.get("context_window") or 0
        full = bool(window) and read >= 0.98 * window
        fewer = (sent > window if window else read >= MIN_TOKENS) and 0 < read < sent // 2
        return {TOKENS_READ: read, TOKENS_SENT: max(sent, read)} if full or fewer else {}

    def _require_usable(
        self, response: ModelResponse, tools: Mapping[str, Any], *, answers_results: bool
    ) -> ModelResponse:
        calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
        texts = [part.content for part in response.parts if isinstance(part, TextPart)]
        if response.finish_reason == "length" and any(INVALID_JSON_KEY in call.args_as_dict() for call in calls):
            raise ModelAPIError(self.model_name, "the model ran out of room in the middle of a tool call")
        if not calls and tools and any(unreadable_call(content, tools) for content in texts):
            raise ModelAPIError(self.model_name, "the model wrote a tool call that cannot be read")
        if calls or texts:
            return response
        if response.finish_reason == "tool_call":
            raise ModelAPIError(self.model_name, "the model server announced a tool call and sent none")
        # On a context overflow of a GGUF model, LM Studio responds with 200 and an empty message.
        window = self.profile.get("context_window")
        if window and response.usage.input_tokens >= 0.95 * window:
            raise self._overflow()
        if answers_results and response.finish_reason == "stop":
            return response  # it has nothing to add to the results
        raise ModelAPIError(self.model_name, "the model gave an empty answer; its context may be full")


def _answers_results(messages: Sequence[ModelMessage]) -> bool:
    """Whether the last message contains results of tools."""
    last = messages[-1]
    return isinstance(last, ModelRequest) and any(isinstance(part, ToolReturnPart) for part in last.parts)


def valid_completion(body: Mapping[str, Any], model: str) -> ChatCompletion:
    """Build a valid completion from the usable parts of a response body.

    Raises:
        ModelAPIError: no part is usable.
    """
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise ModelAPIError(model, "it contains no message")
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    usable = {
        "role": "assistant",
        "content": closed_thinking(without_channels(_text_of(message.get("content")))),
        "reasoning_content": reasoning if isinstance(reasoning, str) else None,
        "tool_calls": _native_calls(message.get("tool_calls")) or None,
    }
    reason = choice.get("finish_reason")
    return ChatCompletion.model_validate(
        {
            "id": str(body.get("id") or ""),
            "object": "chat.completion",
            "created": 0,
            "model": str(body.get("model") or model),
            "choices": [{"index": 0, "message": usable, "finish_reason": REASONS.get(str(reason), "stop")}],
            "usage": _usage(body.get("usage")),
        }
    )


def _shown(url: str) -> str:
    """A URL without a user and password in it."""
    return re.sub(r"//[^/@]*@", "//", url.rstrip("/"))


def _length(messages: Sequence[ModelMessage]) -> int:
    """Number of characters in the messages, without the tools."""
    contents = [getattr(part, "content", "") for message in messages for part in message.parts]
    instructions = [message.instructions or "" for message in messages[-1:] if isinstance(message, ModelRequest)]
    return sum(len(str(content)) for content in [*contents, *instructions])


def _text_of(content: Any) -> str:
    entries = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in entries]
    joined = "".join(entry for entry in texts if isinstance(entry, str))
    return joined if len(joined) <= MOST_CHARACTERS else f"{joined[:MOST_CHARACTERS]}\n… (cut)"


def _usage(usage: Any) -> dict[str, int] | None:
    if not isinstance(usage, dict):
        return None
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    prompt, answer = (count if isinstance(count, int) and count > 0 else 0 for count in counts)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _native_calls(entries: Any) -> list[dict[str, Any]]:
    """Tool calls with unique ids and arguments as text; duplicates are dropped."""
    calls: dict[tuple[str, str, str], dict[str, Any]] = {}
    for entry in entries if isinstance(entries, list) else []:
        function = entry.get("function") if isinstance(entry, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not name:
            continue
        given = function.get("arguments")
        arguments = given if isinstance(given, str) else json.dumps({} if given is None else given)
        identity = entry["id"] if isinstance(entry.get("id"), str) else ""
        taken = not identity or any(identity == other["id"] for other in calls.values())
        own = f"call_{uuid.uuid4().hex[:9]}" if taken else identity
        called = {"id": own, "type": "function", "function": {"name": name, "arguments": arguments}}
        calls.setdefault((identity, name, arguments), called)
    return list(calls.values())


def repaired_parts(response: ModelResponse, tools: Mapping[str, Any]) -> list[ModelResponsePart]:
    """Repair the parts: parse arguments, remove special tokens, turn calls written as text into tool calls."""
    native = any(isinstance(part, ToolCallPart) for part in response.parts)
    said = any(isinstance(part, TextPart) and part.content.strip() for part in response.parts)
    parts: list[ModelResponsePart] = []
    for part in response.parts:
        calls: list[WrittenCall] = []
        if isinstance(part, ToolCallPart):
            name = tool_name(part.tool_name, tools)
            arguments = arguments_object(part.args, tools.get(name, {}))
            parts.append(ToolCallPart(name, arguments, part.tool_call_id))
        elif isinstance(part, TextPart):
            prose, calls = (part.content, []) if native else written_calls(part.content, tools)
            if prose := without_tokens(prose).strip():
                parts.append(replace(part, content=prose))
        else:
            parts.append(part)
            if isinstance(part, ThinkingPart) and not native and not said:
                # If a model calls a tool before its thinking ends, servers may put the call into the thinking part.
                _, calls = written_calls(part.content, tools)
        parts += [ToolCallPart(call.name, arguments_object(call.arguments, tools[call.name])) for call in calls]
    return parts


def arguments_object(arguments: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the arguments into an object. Unreadable ones are kept under a key no tool has, so the call is refused.

    A guess could change the wrong object, and invalid JSON in the history makes llama.cpp fail the next request.
    """
    value = arguments
    for _ in range(3):
        if not isinstance(value, str):
            break
        value = parse_literal(value.strip() or "{}")
    if not isinstance(value, dict):
        return {INVALID_JSON_KEY: str(arguments)}
    return coerce_arguments(schema, value, added=("host",)) if schema else value
