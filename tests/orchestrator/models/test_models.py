"""Choosing a model, and handling the responses of real local servers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from pydantic import BaseModel, Field
from pydantic_ai import Agent, AgentRunResult, Tool
from pydantic_ai.exceptions import ModelAPIError, ModelContextWindowExceededError
from pydantic_ai.messages import FunctionToolCallEvent, ModelMessage, ModelResponse, TextPart, ThinkingPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel

from anvyl_mcp.core import settings as settings_module
from anvyl_mcp.core.errors import ModelUnavailable
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.orchestrator.models import model_choice
from anvyl_mcp.orchestrator.models.model_choice import (
    ModelChoice,
    build_model,
    choose_model,
    remember_model,
    substituted_model,
    with_rules_fallback,
)
from anvyl_mcp.orchestrator.models.servers import local_server_model
from tests.support.model_server import (
    FAILURES,
    MODEL,
    ListedModel,
    ModelServer,
    Reply,
    call,
    completion,
    error,
    hang,
    raw,
    text,
    tool_call,
    tool_calls,
)

pytest_plugins = ["tests.support.model_server"]

BY_RULES = "the rules answered"


@pytest.fixture
def settings(model_server: ModelServer, tmp_path: Path) -> Settings:
    return settings_module.load(environ={"ANVYL_HOME": str(tmp_path), "ANVYL_LMSTUDIO_URL": model_server.url})


def named(settings: Settings, name: str) -> Settings:
    return replace(settings, lmstudio_model=name)


# Which model is chosen


async def test_the_loaded_model_that_can_use_tools_is_chosen(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(
        ListedModel("a/big-but-toolless", 131072, tools=False),
        ListedModel("b/small-context", 8192),
        ListedModel("c/right", 32768),
        ListedModel("d/not-loaded"),
        ListedModel("text-embedding-nomic", 2048, kind="embedding"),
    )
    assert await choose_model(settings) == ModelChoice("c/right", "lmstudio", 32768, trained_for_tools=True)


async def test_the_instance_with_the_most_context_is_asked_by_its_own_id(
    settings: Settings, model_server: ModelServer
) -> None:
    model_server.list_models(ListedModel("a/one", 8192), ListedModel("a/one", 16384, instance="a/one:2"))
    assert (await choose_model(settings)).name == "a/one:2"


async def test_a_loaded_model_without_tools_is_better_than_none(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("a/toolless", 16384, tools=False), ListedModel("b/not-loaded"))
    choice = await choose_model(settings)
    assert (choice.name, choice.warning) == (
        "a/toolless",
        "`a/toolless` was not trained to use tools, so expect poor answers",
    )


async def test_a_small_context_gives_a_warning_with_the_command_that_enlarges_it(
    settings: Settings, model_server: ModelServer
) -> None:
    model_server.list_models(ListedModel("a/one", 4096))
    warning = (await choose_model(settings)).warning
    assert "only 4096 tokens" in warning
    assert "`lms load a/one --context-length 16384`" in warning


async def test_with_nothing_loaded_the_model_used_last_is_chosen(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("a/one"), ListedModel("b/two"))
    remember_model(settings, ModelChoice("b/two:2", "lmstudio"))
    choice = await choose_model(settings)
    assert choice.name == "b/two"
    assert "not loaded yet" in choice.warning


async def test_the_last_used_model_is_not_chosen_if_it_is_gone(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("a/one"), ListedModel("b/two"))
    remember_model(settings, ModelChoice("c/deleted", "lmstudio"))
    with pytest.raises(ModelUnavailable):
        await choose_model(settings)


async def test_models_are_remembered_for_each_server(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("a/one"), ListedModel("b/two"))
    remember_model(settings, ModelChoice("a/one", "lmstudio"))
    remember_model(replace(settings, lmstudio_url="http://elsewhere:1234/v1"), ModelChoice("b/two", "lmstudio"))
    assert (await choose_model(settings)).name == "a/one"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"http": 3}', "null"])
async def test_a_damaged_models_file_is_ignored(settings: Settings, content: str) -> None:
    (settings.state_dir / "models.json").write_text(content, encoding="utf-8")
    assert model_choice.last_model(settings) == ""
    for _ in range(2):
        remember_model(settings, ModelChoice("a/one", "lmstudio"))
        assert model_choice.last_model(settings) == "a/one"


async def test_a_models_file_that_cannot_be_written_is_ignored(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    remember_model(replace(settings, state_dir=tmp_path / "file" / "below"), ModelChoice("a/one", "lmstudio"))


async def test_with_nothing_loaded_the_only_capable_model_is_chosen(
    settings: Settings, model_server: ModelServer
) -> None:
    model_server.list_models(
        ListedModel("a/one"), ListedModel("b/toolless", tools=False), ListedModel("nomic-embed", kind="embedding")
    )
    assert (await choose_model(settings)).name == "a/one"


async def test_without_a_clear_choice_the_models_and_a_command_are_named(
    settings: Settings, model_server: ModelServer
) -> None:
    model_server.list_models(ListedModel("a/one"), ListedModel("b/two"), ListedModel("nomic-embed", kind="embedding"))
    with pytest.raises(ModelUnavailable) as caught:
        await choose_model(settings)
    assert caught.value.message == "LM Studio has no model loaded"
    assert "`anvyl models load a/one`" in caught.value.hint
    assert "`a/one`, `b/two`" in caught.value.hint
    assert "embed" not in str(caught.value)


@pytest.mark.parametrize(
    "served", [(), (ListedModel("nomic-embed", 2048, kind="embedding"),)], ids=["none", "embedding"]
)
async def test_lm_studio_without_a_chat_model_gets_a_hint_what_to_download(
    settings: Settings, model_server: ModelServer, served: tuple[ListedModel, ...]
) -> None:
    model_server.list_models(*served)
    with pytest.raises(ModelUnavailable, match=r"no model that can answer.*lms get"):
        await choose_model(settings)


async def test_the_list_of_the_older_lm_studio_is_parsed(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(
        ListedModel("a/one"), ListedModel("b/two", 8192), ListedModel("c/toolless", 16384, tools=False), api="v0"
    )
    assert await choose_model(settings) == ModelChoice("b/two", "lmstudio", 8192, trained_for_tools=True)


async def test_a_server_with_one_model_needs_no_setting(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("gemma.gguf"), ListedModel("text-embedding-nomic"), api="openai")
    assert await choose_model(settings) == ModelChoice("gemma.gguf", "openai-compatible")


async def test_the_context_length_of_an_openai_compatible_server_is_read(
    settings: Settings, model_server: ModelServer
) -> None:
    model_server.pages = {"/v1/models": raw({"data": [{"id": "a/one", "max_model_len": 4096}]})}
    choice = await choose_model(settings)
    assert choice.context_length == 4096
    assert choice.warning == "`a/one` has only 4096 tokens of context"


async def test_a_server_with_several_models_and_no_state_needs_a_setting(
    settings: Settings, model_server: ModelServer
) -> None:
    model_server.list_models(ListedModel("qwen3:8b"), ListedModel("llama3:8b"), api="openai")
    with pytest.raises(ModelUnavailable) as caught:
        await choose_model(settings)
    assert "anvyl models use NAME" in caught.value.hint
    assert "`llama3:8b`, `qwen3:8b`" in caught.value.hint
    remember_model(settings, ModelChoice("qwen3:8b", "openai-compatible"))
    assert (await choose_model(settings)).name == "qwen3:8b"


async def test_a_server_that_lists_no_model_needs_a_setting(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(api="openai")
    with pytest.raises(ModelUnavailable, match="lists no model that can answer"):
        await choose_model(settings)
    model_server.pages = {}
    with pytest.raises(ModelUnavailable, match="ANVYL_LMSTUDIO_MODEL"):
        await choose_model(settings)
    assert await choose_model(named(settings, "any")) == ModelChoice("any", "openai-compatible")


async def test_lm_studios_response_to_an_unknown_path_is_recognized(
    settings: Settings, model_server: ModelServer
) -> None:
    unknown = raw({"error": "Unexpected endpoint or method. (GET /api/v1/models)"})
    model_server.pages |= {"/api/v1/models": unknown, "/api/v0/models": unknown}
    assert (await choose_model(settings)).provider == "openai-compatible"
    model_server.pages["/v1/models"] = unknown
    assert (await choose_model(named(settings, "any"))).name == "any"


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("a/one", "a/one"),
        ("A/One", "a/one"),
        ("b/two", "b/two:3"),
        ("b/two:3", "b/two:3"),
        ("c/three@q4", "c/three@q4"),
        ("c/three", "c/three"),
        ("d/four@q8", "d/four"),
        ("d/four@q4", "d/four@q4"),
    ],
)
async def test_a_configured_model_is_found_by_key_instance_or_variant(
    settings: Settings, model_server: ModelServer, wanted: str, chosen: str
) -> None:
    model_server.list_models(
        ListedModel("a/one"),
        ListedModel("b/two", 8192, instance="b/two:3"),
        ListedModel("c/three", variants=("c/three@q4", "c/three@q8")),
        ListedModel("d/four", 8192, variants=("d/four@q8", "d/four@q4")),
    )
    assert (await choose_model(named(settings, wanted))).name == chosen


async def test_the_model_asked_for_wins_over_the_setting(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("a/one", 8192), ListedModel("b/two", 8192))
    assert (await choose_model(named(settings, "a/one"), model="b/two")).name == "b/two"


async def test_an_unknown_model_gets_similar_names(settings: Settings, model_server: ModelServer) -> None:
    with pytest.raises(ModelUnavailable, match=r"no model `qwen/qwen3\.5-9` .*`qwen/qwen3\.5-9b`"):
        await choose_model(named(settings, "qwen/qwen3.5-9"))


async def test_an_embedding_model_is_not_chosen_even_by_name(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("nomic-embed", 2048, kind="embedding"))
    with pytest.raises(ModelUnavailable, match="no model `nomic-embed` that can answer"):
        await choose_model(named(settings, "nomic-embed"))


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
async def test_the_base_url_may_be_written_in_several_ways(
    settings: Settings, model_server: ModelServer, suffix: str
) -> None:
    root = model_server.url.removesuffix("/v1")
    assert (await choose_model(replace(settings, lmstudio_url=root + suffix))).name == MODEL


# No model


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_refused_connection_is_reported_within_half_a_second(
    settings: Settings, closed_port: int, host: str
) -> None:
    with (
        anyio.fail_after(0.5),
        pytest.raises(ModelUnavailable, match=r"no model server listens at .*`lms server start`"),
    ):
        await choose_model(replace(settings, lmstudio_url=f"http://{host}:{closed_port}/v1"))


async def test_a_server_that_never_answers_times_out(
    settings: Settings, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anvyl_mcp.orchestrator.models.servers.model_server.READ_SECONDS", 0.05)
    model_server.pages["/api/v1/models"] = hang()
    with pytest.raises(ModelUnavailable, match="does not answer in time"):
        await choose_model(settings)
    assert model_server.paths == ["/api/v1/models"]


async def test_a_required_key_is_requested_and_sent(settings: Settings, model_server: ModelServer) -> None:
    model_server.key = "sk-lm-1:secret"
    with pytest.raises(ModelUnavailable, match=r"requires a key.*ANVYL_LLM_API_KEY"):
        await choose_model(settings)
    with pytest.raises(ModelUnavailable, match="rejects the key") as caught:
        await choose_model(replace(settings, llm_api_key="sk-wrong"))
    assert "sk-wrong" not in str(caught.value)
    with_key = replace(settings, llm_api_key="sk-lm-1:secret")
    choice = await choose_model(with_key)
    model_server.replies.append(text("hello"))
    async with Agent(build_model(with_key, choice)) as agent:
        assert (await agent.run("hi")).output == "hello"


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (raw("<html>hi</html>", media_type="text/html"), "not an OpenAI-compatible model server"),
        (raw(b"\xff\xfe"), "not an OpenAI-compatible model server"),
        (raw(""), "not an OpenAI-compatible model server"),
        (raw([]), "not an OpenAI-compatible model server"),
        (raw("[" * 100_000), "not an OpenAI-compatible model server"),
        (raw({"data": "none"}), "not an OpenAI-compatible model server"),
        (raw({"data": [{"name": "no id"}]}), "not an OpenAI-compatible model server"),
        (raw({"data": [None, 3, "x"]}), "not an OpenAI-compatible model server"),
        (raw("", status=302), "not an OpenAI-compatible model server"),
        (error("Loading model", status=503), "answered 503: Loading model"),
        (error("Loading\x1b[31m model", status=503, as_text=True), "answered 503: Loading model"),
        (raw("<html>Bad Gateway</html>", status=502), "answered 502. Check its log"),
    ],
)
async def test_a_response_that_is_not_a_model_list_is_reported_in_a_sentence(
    settings: Settings, model_server: ModelServer, page: Reply, message: str
) -> None:
    model_server.pages = dict.fromkeys(("/api/v1/models", "/api/v0/models", "/v1/models"), page)
    with pytest.raises(ModelUnavailable, match=message) as caught:
        await choose_model(settings)
    assert "\x1b" not in str(caught.value)


async def test_entries_with_missing_or_odd_fields_do_not_hide_the_others(
    settings: Settings, model_server: ModelServer
) -> None:
    odd = [
        {"key": 3},
        {"key": "a/odd", "loaded_instances": "none", "capabilities": [], "variants": {}},
        {"key": "b/odd", "loaded_instances": [None, {"id": None, "config": None}], "capabilities": {}},
        {
            "key": "c/good",
            "loaded_instances": [{"id": "c/good", "config": {"context_length": "x"}}],
            "capabilities": {"trained_for_tool_use": True},
        },
    ]
    model_server.pages["/api/v1/models"] = raw({"models": odd})
    assert await choose_model(settings) == ModelChoice("c/good", "lmstudio", trained_for_tools=True)


@pytest.mark.parametrize("url", ["htp://localhost:1234/v1", "localhost", "http://", "http://[::1", "http://x:99999/v1"])
async def test_a_malformed_url_is_reported(settings: Settings, url: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"ANVYL_LMSTUDIO_URL"):
        await choose_model(replace(settings, lmstudio_url=url))


async def test_a_server_that_does_not_speak_http_is_reported(settings: Settings) -> None:
    async def greet(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b"SSH-2.0-OpenSSH_9.2\r\n")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, greet)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(ModelUnavailable, match="does not speak HTTP"):
            await choose_model(replace(settings, lmstudio_url=f"http://127.0.0.1:{port}/v1"))
        tasks.cancel_scope.cancel()


def test_choosing_a_model_imports_no_model_library() -> None:
    script = (
        "import sys, anvyl_mcp.orchestrator.models.model_choice; "
        "print([n for n in ('openai', 'pydantic_ai') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


# Requests and responses: one agent with one tool, with the rules as fallback


class Bench:
    """An agent with one tool on the scripted server, and the recorded calls of the tool."""

    def __init__(self, settings: Settings, choice: ModelChoice) -> None:
        self.choice = choice
        self.model = build_model(settings, choice)
        self.stopped: list[dict[str, Any]] = []
        self.took_over: list[list[ModelMessage]] = []
        self.failed: list[str] = []

    def stop_container(
        self,
        name: Annotated[str, Field(pattern="^[a-z]+$", max_length=9999, json_schema_extra={"x-names": "container"})],
        timeout: int = 10,
        hosts: list[str] | None = None,
        note: str | None = None,
    ) -> str:
        """Stop a running container."""
        self.stopped.append({"name": name, "timeout": timeout, "hosts": hosts, "note": note})
        return f"{name} is stopped"

    def rules(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.took_over.append(messages)
        return ModelResponse([TextPart(BY_RULES)])

    @property
    def reason(self) -> str:
        """Why the model did not answer; empty when it did."""
        return self.failed[0] if self.failed else ""

    async def ask(self, model: Model | None = None, **options: Any) -> AgentRunResult[str]:
        chain = model or with_rules_fallback(
            self.model, FunctionModel(self.rules, model_name="rules"), failed=self.failed
        )
        async with Agent(chain, instructions="Be brief.", tools=[self.stop_container], retries=3) as agent:
            return await agent.run("stop web", **options)


@pytest.fixture
def bench(settings: Settings) -> Bench:
    return Bench(settings, ModelChoice(MODEL, "lmstudio", 32768))


def stopped(name: str = "web", **more: Any) -> dict[str, Any]:
    return {"name": name, "timeout": 10, "hosts": None, "note": None, **more}


async def test_a_question_is_answered_through_a_tool(bench: Bench, model_server: ModelServer) -> None:
    model_server.replies += [tool_call("stop_container", {"name": "web"}), text("web is stopped.")]
    result = await bench.ask()
    assert (result.output, bench.stopped, bench.took_over) == ("web is stopped.", [stopped()], [])
    assert bench.reason == ""
    assert substituted_model(result.all_messages(), bench.choice) == ""


async def test_a_run_with_an_event_listener_falls_back_too(bench: Bench, model_server: ModelServer) -> None:
    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        yield BY_RULES

    async def watch(_: Any, events: Any) -> None:
        async for _event in events:
            pass

    model_server.replies.append(FAILURES["empty answer"])
    rules = FunctionModel(bench.rules, stream_function=stream, model_name="rules")
    result = await bench.ask(with_rules_fallback(bench.model, rules, failed=bench.failed), event_stream_handler=watch)
    assert result.output == BY_RULES
    assert "empty answer" in bench.reason


async def test_requests_contain_only_what_local_servers_support(bench: Bench, model_server: ModelServer) -> None:
    model_server.replies.append(text("ok"))
    await bench.ask(model_settings={"max_tokens": 50})
    sent = model_server.requests[0]
    assert sent["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "stop_container",
                "description": "Stop a running container.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "timeout": {"type": "integer", "default": 10},
                        "hosts": {"type": "array", "items": {"type": "string"}},
                        "note": {"type": "string"},
                    },
                    "required": ["name"],
                },
            },
        }
    ]
    assert {key: sent[key] for key in sent.keys() - {"tools", "messages"}} == {
        "model": MODEL,
        "stream": False,
        "temperature": 0.0,
        "max_tokens": 50,
        "tool_choice": "auto",
    }
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]


async def test_schemas_of_foreign_tools_are_simplified_too(bench: Bench, model_server: ModelServer) -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Foreign",
        "type": "object",
        "properties": {
            "title": {"type": ["string", "null"], "default": None, "format": "uri", "x-order": 1},
            "size": {"type": ["integer", "string", "null"], "description": "How large."},
            "where": {"$ref": "#/$defs/Place"},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]},
        },
        "additionalProperties": False,
        "$defs": {"Place": {"title": "Place", "type": "object", "properties": {"host": {"type": "string"}}}},
    }
    tool = Tool.from_schema(bench.stop_container, "foreign", "From elsewhere.", schema)
    model_server.replies.append(text("ok"))
    async with Agent(bench.model, tools=[tool]) as agent:
        await agent.run("go")
    assert model_server.requests[0]["tools"][0]["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "size": {"type": ["integer", "string"], "description": "How large."},
            "where": {"type": "object", "properties": {"host": {"type": "string"}}},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        },
    }


async def test_a_tool_choice_is_never_forced(bench: Bench, model_server: ModelServer) -> None:
    class Verdict(BaseModel):
        good: bool

    model_server.replies.append(tool_call("final_result", {"good": True}))
    async with Agent(bench.model, output_type=Verdict) as agent:
        assert (await agent.run("good?")).output.good
    assert model_server.requests[0]["tool_choice"] == "auto"


async def test_events_come_from_one_response_without_streaming(bench: Bench, model_server: ModelServer) -> None:
    model_server.replies += [tool_call("stop_container", {"name": "web"}), text("web is stopped.")]
    seen: list[object] = []

    async def watch(_: Any, events: Any) -> None:
        seen.extend([event async for event in events])

    assert (await bench.ask(event_stream_handler=watch)).output == "web is stopped."
    assert any(isinstance(event, FunctionToolCallEvent) for event in seen)
    assert not any(sent["stream"] for sent in model_server.requests)


@pytest.mark.parametrize("failure", FAILURES)
async def test_the_rules_answer_if_the_models_response_is_unusable(
    bench: Bench, model_server: ModelServer, failure: str
) -> None:
    model_server.replies.append(FAILURES[failure])
    result = await bench.ask()
    reason = bench.reason
    assert result.output == BY_RULES
    assert len(model_server.requests) == 1
    assert 20 < len(reason) < 250
    assert "status_code" not in reason
    assert "<html" not in reason


@pytest.mark.parametrize("failure", [name for name in FAILURES if name.startswith("overflow")])
async def test_every_message_about_a_full_context_is_recognized(
    bench: Bench, model_server: ModelServer, failure: str
) -> None:
    model_server.replies.append(FAILURES[failure])
    with pytest.raises(
        ModelContextWindowExceededError, match=r"do not fit into the context of (32768|8192|4096) tokens"
    ):
        await bench.ask(bench.model)


async def test_an_empty_answer_with_a_full_context_is_an_overflow(bench: Bench, model_server: ModelServer) -> None:
    full = {"prompt_tokens": 32760, "completion_tokens": 0, "total_tokens": 32760}
    model_server.replies.append(completion({"content": ""}, usage=full))
    with pytest.raises(ModelContextWindowExceededError):
        await bench.ask(bench.model)


async def test_the_rules_take_over_in_the_middle_of_a_run(bench: Bench, model_server: ModelServer) -> None:
    model_server.replies += [tool_call("stop_container", {"name": "web"}), FAILURES["crash"]]
    result = await bench.ask()
    assert (result.output, bench.stopped) == (BY_RULES, [stopped()])
    assert bench.reason == f"the model server at {model_server.url} failed: Internal error"


async def test_a_server_that_dies_after_it_was_chosen_causes_no_retries(settings: Settings, closed_port: int) -> None:
    gone = replace(settings, lmstudio_url=f"http://127.0.0.1:{closed_port}/v1")
    bench = Bench(gone, ModelChoice(MODEL, "lmstudio"))
    with anyio.fail_after(2):  # the library's own retries take longer
        result = await bench.ask()
    assert result.output == BY_RULES
    assert bench.reason == f"the connection to the model server at {gone.lmstudio_url} failed"


@pytest.mark.parametrize("between", ["two reads", "question and answer"])
async def test_a_server_that_hangs_times_out(
    between: str, bench: Bench, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_server.replies.append(hang())
    if between == "question and answer":
        monkeypatch.setattr(local_server_model, "ANSWER_SECONDS", 0.1)
        result = await bench.ask()
    else:
        result = await bench.ask(model_settings={"timeout": 0.1})
    assert result.output == BY_RULES
    assert bench.reason == f"the model server at {model_server.url} did not answer in time"


async def test_a_substituted_model_is_reported(bench: Bench, model_server: ModelServer) -> None:
    model_server.replies.append(text("hi", model="google/gemma-4-e2b"))
    assert substituted_model((await bench.ask()).all_messages(), bench.choice) == "google/gemma-4-e2b"


@pytest.mark.parametrize("answered", ["qwen3.5-9b", "qwen/qwen3.5-9b:2", "/models/Qwen3.5-9B-Q4_K_M.gguf", "", None, 5])
async def test_another_spelling_is_not_a_substituted_model(
    bench: Bench, model_server: ModelServer, answered: Any
) -> None:
    model_server.replies.append(text("hi", model=answered))
    messages = (await bench.ask()).all_messages()
    assert substituted_model(messages, bench.choice) == ("5" if answered == 5 else "")


@pytest.mark.parametrize("finish_reason", [None, "", "eos", "tool_calls", 3])
async def test_an_odd_finish_reason_does_no_harm(bench: Bench, model_server: ModelServer, finish_reason: Any) -> None:
    model_server.replies.append(text("hello", finish_reason=finish_reason))
    assert (await bench.ask()).output == "hello"


@pytest.mark.parametrize(
    "usage", [None, "x", {}, {"prompt_tokens": None}, {"prompt_tokens": -3, "completion_tokens": "2"}]
)
async def test_odd_usage_does_no_harm(bench: Bench, model_server: ModelServer, usage: Any) -> None:
    model_server.replies.append(text("hello", usage=usage))
    assert (await bench.ask()).output == "hello"


async def test_missing_and_odd_fields_around_an_answer_do_no_harm(bench: Bench, model_server: ModelServer) -> None:
    content = [{"type": "text", "text": "hel"}, {"type": "image"}, "lo", 3]
    message = {"content": content, "tool_calls": "none", "role": None, "reasoning": 3, "annotations": 3, "refusal": 3}
    model_server.replies.append(raw({"choices": [{"message": message, "logprobs": "x"}], "created": "now", "id": 3}))
    assert (await bench.ask()).output == "hello"


async def test_lone_surrogates_are_replaced(bench: Bench, model_server: ModelServer) -> None:
    half = {**CALL, "function": {"name": "stop_container", "arguments": '{"name": "web", "note": "\\ud83d"}'}}
    other_half = {**CALL, "function": {"name": "stop_container", "arguments": '{"name": "web", "note": "\ude00"}'}}
    model_server.replies += [tool_calls(half, other_half), text("hello \ud83d")]
    assert (await bench.ask()).output == "hello ?"
    assert bench.stopped == [stopped(note="?")] * 2


# Tool calls that servers break

CALL = call("stop_container", {"name": "web"})
SPOILT: dict[str, list[Any]] = {
    "no id": [{**CALL, "id": None}],
    "id is a number": [{**CALL, "id": 3}],
    "id is a list": [{**CALL, "id": [3]}],
    "no type": [{key: CALL[key] for key in ("id", "function")}],
    "an odd type": [{**CALL, "type": "custom"}],
    "sent twice": [CALL, CALL],
    "among rubbish": [None, 3, {"function": None}, {"function": {"name": ""}}, {"function": {"name": 3}}, CALL],
    "an object": [{**CALL, "function": {"name": "stop_container", "arguments": {"name": "web"}}}],
    "encoded twice": [call("stop_container", json.dumps(json.dumps({"name": "web"})))],
    "in Python's spelling": [call("stop_container", "{'name': 'web', 'note': None}")],
    "null for what is optional": [call("stop_container", {"name": "web", "hosts": None, "note": None})],
    "a number as text": [call("stop_container", {"name": "web", "timeout": "10"})],
    "blanks around": [call("stop_container", ' \n{"name": "web"}\n')],
}


@pytest.mark.parametrize("broken", SPOILT)
async def test_a_broken_tool_call_is_repaired(bench: Bench, model_server: ModelServer, broken: str) -> None:
    model_server.replies += [tool_calls(*SPOILT[broken]), text("web is stopped.")]
    result = await bench.ask()
    assert (result.output, bench.stopped, bench.took_over) == ("web is stopped.", [stopped()], [])


async def test_a_list_written_as_text_is_parsed(bench: Bench, model_server: ModelServer) -> None:
    model_server.replies += [tool_call("stop_container", {"name": "web", "hosts": '["nas", "gpu"]'}), text("ok")]
    await bench.ask()
    assert bench.stopped == [stopped(hosts=["nas", "gpu"])]


async def test_text_that_looks_like_a_number_stays_text(bench: Bench, model_server: ModelServer) -> None:
    model_server.replies += [tool_call("stop_container", {"name": "web", "note": "12"}), text("ok")]
    await bench.ask()
    assert bench.stopped == [stopped(note="12")]


async def test_two_calls_that_share_an_id_are_both_made(bench: Bench, model_server: ModelServer) -> None:
    both = [call("stop_container", {"name": name}, call_id="same") for name in ("web", "db")]
    model_server.replies += [tool_calls(*both), text("ok")]
    await bench.ask()
    assert sorted(done["name"] for done in bench.stopped) == ["db", "web"]
    results = [message["tool_call_id"] for message in model_server.requests[1]["messages"] if message["role"] == "tool"]
    assert len(set(results)) == 2


@pytest.mark.parametrize("arguments", ["", None, "null", "{}"])
async def test_a_call_without_its_arguments_is_retried(bench: Bench, model_server: ModelServer, arguments: Any) -> None:
    bare = {**CALL, "function": {"name": "stop_container", "arguments": arguments}}
    model_server.replies += [tool_calls(bare), tool_call("stop_container", {"name": "web"}), text("ok")]
    assert (await bench.ask()).output == "ok"
    assert bench.stopped == [stopped()]


@pytest.mark.parametrize("arguments", ['{"name": "we', '{"name": "web"', "web", '["web"]', "{1, 2}", "3", "b'x'"])
async def test_arguments_that_cannot_be_read_are_refused_not_guessed(
    bench: Bench, model_server: ModelServer, arguments: str
) -> None:
    model_server.replies += [
        tool_call("stop_container", arguments),
        tool_call("stop_container", {"name": "web"}),
        text("ok"),
    ]
    assert (await bench.ask()).output == "ok"
    assert bench.stopped == [stopped()]
    sent_back = model_server.requests[1]["messages"][2]["tool_calls"][0]["function"]["arguments"]
    assert isinstance(json.loads(sent_back), dict)


async def test_a_truncated_call_is_not_made(bench: Bench, model_server: ModelServer) -> None:
    model_server.replies.append(tool_call("stop_container", '{"name": "we', finish_reason="length"))
    result = await bench.ask()
    assert (result.output, bench.stopped) == (BY_RULES, [])
    assert "ran out of room" in bench.reason


async def test_an_unknown_tool_and_an_unknown_argument_are_retried(bench: Bench, model_server: ModelServer) -> None:
    model_server.replies += [
        tool_call("halt", {"name": "web"}),
        tool_call("stop_container", {"name": "web", "gently": True}),
        tool_call("stop_container", {"name": "web"}),
        text("ok"),
    ]
    assert (await bench.ask()).output == "ok"
    assert bench.stopped == [stopped()]


JSON_CALL = '{"name": "stop_container", "arguments": {"name": "web"}}'
WRITTEN = {
    "qwen": f"<tool_call>\n{JSON_CALL}\n</tool_call>",
    "not closed": f"<tool_call>\n{JSON_CALL}",
    "arguments as text": '<tool_call>{"name": "stop_container", "arguments": "{\\"name\\": \\"web\\"}"}</tool_call>',
    "llama": '{"type": "function", "name": "stop_container", "parameters": {"name": "web"}}',
    "lm studio": f"[TOOL_REQUEST]{JSON_CALL}[END_TOOL_REQUEST]",
    "mistral": f"[TOOL_CALLS][{JSON_CALL}]",
    "xml": "<tool_call>\n<function=stop_container>\n<parameter=name>\nweb\n</parameter>\n</function>\n</tool_call>",
    "xml, number": (
        "<function=stop_container><parameter=name>web</parameter><parameter=timeout>10</parameter></function>"
    ),
    "xml, not closed": "<function=stop_container>\n<parameter=name>web",
    "fence": f"```json\n{JSON_CALL}\n```",
    "bare": JSON_CALL,
    "after words": f"I will stop it.\n<tool_call>\n{JSON_CALL}\n</tool_call>",
    "with made-up results": f"<tool_call>{JSON_CALL}</tool_call>\nDone!",
    "after thinking": f"<think>\nhm</think><tool_call>{JSON_CALL}</tool_call>",
    "in open thinking": f"<think>hm\n<tool_call>{JSON_CALL}</tool_call>",
}


@pytest.mark.parametrize("form", WRITTEN)
async def test_a_call_written_as_text_is_made(bench: Bench, model_server: ModelServer, form: str) -> None:
    model_server.replies += [text(WRITTEN[form]), text("web is stopped.")]
    result = await bench.ask()
    assert (result.output, bench.stopped, bench.took_over) == ("web is stopped.", [stopped()], [])
    texts = [part.content for message in result.all_messages() for part in message.parts if isinstance(part, TextPart)]
    assert not any("stop_container" in content or "Done" in content for content in texts)


async def test_several_calls_written_as_text_are_all_made(bench: Bench, model_server: ModelServer) -> None:
    lines = [f'<tool_call>{{"name": "stop_container", "arguments": {{"name": "{name}"}}}}</tool_call>' for name in "ab"]
    model_server.replies += [text("\n".join(lines)), text("ok")]
    await bench.ask()
    assert sorted(done["name"] for done in bench.stopped) == ["a", "b"]


@pytest.mark.parametrize(
    "quoted",
    [
        'The log says <tool_call>{"name": "stop_container", "arguments": {"name": "web"}}</tool_call>',
        'The log has\n<tool_call>{"name": "stop_container", "arguments": {"name": "web"}}</tool_call>\nin it.',
        'Try\n```json\n{"name": "stop_container", "arguments": {"name": "web"}}\n```',
        '```json\n{"name": "stop_container", "arguments": {"name": "web"}}\n```\nwould do it.',
        '{"name": "web", "state": "running"}',
        "[1, 2]",
        "[nas] web runs",
    ],
)
async def test_text_that_only_quotes_a_call_stays_text(bench: Bench, model_server: ModelServer, quoted: str) -> None:
    model_server.replies.append(text(quoted))
    assert (await bench.ask()).output == quoted
    assert bench.stopped == []


async def test_text_next_to_native_calls_is_never_parsed_as_a_call(bench: Bench, model_server: ModelServer) -> None:
    written = '<tool_call>{"name": "stop_container", "arguments": {"name": "db"}}</tool_call>'
    model_server.replies += [completion({"content": written, "tool_calls": [CALL]}), text("ok")]
    await bench.ask()
    assert bench.stopped == [stopped()]


@pytest.mark.parametrize(
    "written",
    [
        '<tool_call>{"name": "format_disk", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "stop_container", "arguments": {"name": "we',
        "<|tool_call_start|>[stop_container(name='web'",
    ],
    ids=["unknown tool", "cut off", "cut off in another dialect"],
)
async def test_a_written_call_that_cannot_be_parsed_is_not_an_answer(
    bench: Bench, model_server: ModelServer, written: str
) -> None:
    model_server.replies.append(text(written))
    result = await bench.ask()
    assert (result.output, bench.stopped) == (BY_RULES, [])
    assert "cannot be read" in bench.reason


@pytest.mark.parametrize(
    "message",
    [
        {"content": "<think>hm</think>\n\nhello"},
        {"content": "hm</think>hello"},
        {"content": "<thinking>hm</thinking>hello"},
        {"content": "[THINK]hm[/THINK]hello"},
        {"content": "hello<think>hm"},
        {"content": "hello", "reasoning_content": "hm"},
        {"content": "hello", "reasoning": "hm"},
    ],
)
async def test_thinking_is_kept_out_of_the_answer(
    bench: Bench, model_server: ModelServer, message: dict[str, str]
) -> None:
    model_server.replies.append(completion(message))
    result = await bench.ask()
    assert result.output == "hello"
    thoughts = [part for part in result.all_messages()[-1].parts if isinstance(part, ThinkingPart)]
    assert [thought.content.strip() for thought in thoughts] == ["hm"]


async def test_without_rules_a_failure_is_raised_with_its_message(bench: Bench, model_server: ModelServer) -> None:
    model_server.replies.append(FAILURES["model does not load"])
    with pytest.raises(ModelAPIError, match=r"refused the request: Failed to load model .* not enough memory"):
        await bench.ask(bench.model)
