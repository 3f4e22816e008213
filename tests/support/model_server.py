"""A scripted OpenAI-compatible server over real HTTP, in place of LM Studio.

    pytest_plugins = ["tests.support.model_server"]

    def test_something(model_server: ModelServer) -> None:
        model_server.replies += [tool_call("stop_container", {"name": "web"}), text("web is stopped.")]
        ...  # with ANVYL_LMSTUDIO_URL=model_server.url
        assert model_server.requests[0]["messages"][-1]["content"] == "stop web"

Replies are sent in order; a request without a scripted reply gets a 500. By default it is LM Studio 0.4 with `MODEL`
loaded; `list_models` turns it into another server, `pages` sets any response, and `key` requires a bearer token.
`hang()` is a reply that waits for `release()`.

PYTEST_DONT_REWRITE: tests import this plugin too, and pytest would warn about that otherwise.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import uvicorn
from pydantic_ai.models import override_allow_model_requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

MODEL = "qwen/qwen3.5-9b"


@dataclass(frozen=True)
class Reply:
    """One HTTP response."""

    body: bytes
    status: int = 200
    media_type: str = "application/json"
    waits: bool = False


def raw(body: Any, *, status: int = 200, media_type: str = "application/json") -> Reply:
    """Reply with any body: bytes and text unchanged, everything else as JSON."""
    if isinstance(body, str):
        body = body.encode()
    return Reply(body if isinstance(body, bytes) else json.dumps(body).encode(), status, media_type)


def completion(message: dict[str, Any], *, finish_reason: Any = "stop", model: Any = MODEL, **more: Any) -> Reply:
    """Reply with a chat completion that contains one message."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1764000000, "model": model}
    return raw({**body, "choices": [choice], "usage": usage, **more})


def text(content: str, **more: Any) -> Reply:
    """Reply with text."""
    return completion({"content": content}, **more)


def tool_call(name: str, arguments: Any, *, call_id: str = "call_1", **more: Any) -> Reply:
    """Reply with one tool call; arguments given as text are sent unchanged."""
    return tool_calls(call(name, arguments, call_id=call_id), **more)


def tool_calls(*calls: dict[str, Any], **more: Any) -> Reply:
    """Reply with several tool calls, each created by `call`."""
    return completion({"content": None, "tool_calls": list(calls)}, **{"finish_reason": "tool_calls", **more})


def call(name: str, arguments: Any, *, call_id: Any = "call_1") -> dict[str, Any]:
    """One entry of `tool_calls`."""
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": written}}


def hang() -> Reply:
    """Reply that waits for `release()`."""
    return Reply(b"{}", waits=True)


def error(message: str, *, status: int, as_text: bool = False, **fields: Any) -> Reply:
    """Error in the format of LM Studio: `error` is an object, or only text."""
    return raw({"error": message if as_text else {"message": message, **fields}}, status=status)


NO_MODEL_LOADED = "No models loaded. Please load a model in the developer page or use the 'lms load' command."
FAILURES = {
    "no model loaded": error(NO_MODEL_LOADED, status=400, type="invalid_request_error", param="model", code=None),
    "no model loaded, older": error(NO_MODEL_LOADED, status=404),
    "no model loaded, as text": error(NO_MODEL_LOADED, status=400, as_text=True),
    "unknown model": error('Invalid model identifier "x".', status=400, code="model_not_found"),
    "model does not load": error('Failed to load model "x". Error: not enough memory', status=400),
    "key needed": error("An LM Studio API token is required.", status=401, code="invalid_api_key"),
    "tool choice": error("Invalid tool_choice type: 'object'.", status=400, as_text=True),
    "grammar": error("Failed to initialize samplers: failed to parse grammar", status=400),
    "overflow": error(
        "Trying to keep the first 9000 tokens when context the overflows. "
        "However, the model is loaded with context length of only 4096",
        status=400,
    ),
    "overflow, truncation": error("Cannot truncate prompt with n_keep (15857) >= n_ctx (8192)", status=500),
    "overflow, MLX": error("Context size has been exceeded", status=500, as_text=True),
    "overflow, llama.cpp": error(
        "the request exceeds the available context size", status=400, type="exceed_context_size_error", n_ctx=4096
    ),
    "overflow in a 200": error("Input does not fit in context length", status=200),
    "error in a 200": error("The model has crashed without additional information.", status=200),
    "error in a 200, as text": error("Model unloaded.", status=200, as_text=True),
    "still loading": error("Loading model", status=503, type="unavailable_error"),
    "crash": error("Internal error", status=500),
    "unknown address": raw("<html><title>404</title></html>", status=404, media_type="text/html"),
    "a web page": raw("<html>hello</html>", media_type="text/html"),
    "not JSON": raw("}{"),
    "half of a JSON": raw('{"choices": [{"message": {"content": "he'),
    "nothing at all": raw(b""),
    "nested without end": raw('{"choices":' + "[" * 100_000),
    "a list": raw([]),
    "a number": raw(7),
    "null": raw(None),
    "an empty object": raw({}),
    "no choices": raw({"id": "x", "object": "chat.completion", "model": MODEL, "choices": []}),
    "choices null": raw({"choices": None}),
    "choices as text": raw({"choices": "none"}),
    "choice null": raw({"choices": [None]}),
    "no message": raw({"choices": [{"finish_reason": "stop"}]}),
    "message as text": raw({"choices": [{"message": "hello"}]}),
    "empty answer": completion({"content": ""}),
    "blank answer": completion({"content": " \n "}),
    "null answer": completion({"content": None}),
    "only thinking": completion({"content": "<think>hm</think>"}),
    "only reasoning": completion({"content": "", "reasoning_content": "hm"}),
    "thinking without an end": completion({"content": "<think>hm, let me see"}, finish_reason="length"),
}
"""Unusable responses, by what is wrong with them."""


@dataclass(frozen=True)
class ListedModel:
    """One model of the list; loaded if it has a context length."""

    name: str = MODEL
    context_length: int = 0
    tools: bool = True
    kind: Literal["llm", "embedding"] = "llm"
    instance: str = ""
    variants: tuple[str, ...] = ()


@dataclass
class ModelServer:
    """Scripted replies and recorded requests. `url` is the value for ANVYL_LMSTUDIO_URL."""

    port: int
    replies: list[Reply] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    pages: dict[str, Reply] = field(default_factory=dict)
    key: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """OpenAI-compatible base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def list_models(self, *models: ListedModel, api: Literal["v1", "v0", "openai"] = "v1") -> None:
        """List these models like LM Studio 0.4, LM Studio 0.3 or any other server."""
        self.pages = {"/v1/models": raw({"object": "list", "data": [{"id": model.name} for model in models]})}
        if api == "v1":
            self.pages["/api/v1/models"] = raw({"models": [_native(model) for model in models]})
        if api == "v0":
            self.pages["/api/v0/models"] = raw({"data": [_older(model) for model in models]})

    def release(self) -> None:
        """Send all waiting replies."""
        self.released.set()

    def reset(self) -> None:
        """Reset to LM Studio with one loaded model, without scripted replies or recorded requests."""
        self.release()
        self.released = threading.Event()
        self.replies, self.requests, self.headers, self.paths, self.key = [], [], [], [], ""
        self.list_models(ListedModel(context_length=32768))

    async def answer(self, request: Request) -> Response:
        """Send the next scripted reply, or the page for this path."""
        self.paths.append(request.url.path)
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return _response(FAILURES["key needed"])
        if request.url.path != "/v1/chat/completions":
            return await self._send(self.pages.get(request.url.path, raw({"detail": "Not Found"}, status=404)))
        self.requests.append(json.loads(await request.body()))
        self.headers.append(dict(request.headers))
        unscripted = error("the test scripted no reply for this request", status=500)
        return await self._send(self.replies.pop(0) if self.replies else unscripted)

    async def _send(self, reply: Reply) -> Response:
        if reply.waits:
            await asyncio.to_thread(self.released.wait)
        return _response(reply)


def _response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, media_type=reply.media_type)


def _native(model: ListedModel) -> dict[str, Any]:
    instance = {"id": model.instance or model.name, "config": {"context_length": model.context_length}}
    return {
        "type": model.kind,
        "key": model.name,
        "loaded_instances": [instance] if model.context_length else [],
        "max_context_length": 131072,
        "capabilities": {"vision": False, "trained_for_tool_use": model.tools},
        **({"variants": list(model.variants), "selected_variant": model.variants[0]} if model.variants else {}),
    }


def _older(model: ListedModel) -> dict[str, Any]:
    loaded = {"state": "loaded", "loaded_context_length": model.context_length}
    return {
        "id": model.name,
        "type": "embeddings" if model.kind == "embedding" else "llm",
        "capabilities": ["tool_use"] if model.tools else [],
        **(loaded if model.context_length else {"state": "not-loaded"}),
    }


class _ReadySignal(uvicorn.Server):
    """Uvicorn server with an event for its start."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@pytest.fixture(scope="session")
def running_model_server() -> Iterator[ModelServer]:
    """One server for all tests of this process; tests use `model_server`."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = ModelServer(listening.getsockname()[1])
        methods = ["GET", "POST"]
        application = Starlette(routes=[Route("/{path:path}", server.answer, methods=methods)])
        config = uvicorn.Config(application, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        running = _ReadySignal(config)
        thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
        thread.start()
        assert running.ready.wait(10)
        yield server
        server.release()
        running.should_exit = True
        thread.join(10)


@pytest.fixture
def model_server(running_model_server: ModelServer) -> Iterator[ModelServer]:
    """The server after a reset; allows requests to models during the test."""
    running_model_server.reset()
    with override_allow_model_requests(True):
        yield running_model_server
    running_model_server.release()
