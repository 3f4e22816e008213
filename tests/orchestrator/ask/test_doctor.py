"""`anvyl doctor` and `anvyl models`: available models, the chosen one, and its problems."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from anvyl_mcp.core import settings as settings_module
from anvyl_mcp.core.errors import ModelUnavailable
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.orchestrator.models.model_choice import choose_model
from anvyl_mcp.orchestrator.models.model_routing import model_for
from anvyl_mcp.orchestrator.models.servers import model_server as servers
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import anvyl
from tests.support.model_server import MODEL, ListedModel, ModelServer, Reply, completion, error, raw, text, tool_call

pytest_plugins = ["tests.support.model_server"]


@pytest.fixture
def settings(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", model_server.url)
    return settings_module.load()


def plain_list(model_server: ModelServer, *names: str) -> None:
    model_server.list_models(*(ListedModel(name) for name in names), api="openai")


async def test_ollama_is_recognized_by_its_running_models(settings: Settings, model_server: ModelServer) -> None:
    plain_list(model_server, "qwen3:4b", "llama3:8b")
    model_server.pages["/api/ps"] = raw({"models": [{"name": "llama3:8b", "context_length": 4096}]})

    choice = await choose_model(settings)

    assert (choice.provider, choice.name, choice.context_length) == (servers.OLLAMA, "llama3:8b", 4096)


async def test_llama_cpp_reports_its_context_and_tool_support(settings: Settings, model_server: ModelServer) -> None:
    plain_list(model_server, "qwen.gguf")
    props = {"default_generation_settings": {"n_ctx": 8192}, "chat_template_caps": {"supports_tools": False}}
    model_server.pages["/props"] = raw(props)

    choice = await choose_model(settings)

    assert (choice.provider, choice.context_length, choice.trained_for_tools) == (servers.LLAMA_CPP, 8192, False)


@pytest.mark.parametrize("page", ["/api/ps", "/props"])
async def test_an_invalid_response_does_not_identify_a_server(
    settings: Settings, model_server: ModelServer, page: str
) -> None:
    plain_list(model_server, "only")
    model_server.pages[page] = raw({"models": "many", "default_generation_settings": 3})

    assert (await choose_model(settings)).provider == servers.OPENAI_COMPATIBLE


def test_models_lists_all_models_and_marks_the_chosen_one(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("a/one", 8192), ListedModel("b/two", 32768), ListedModel("c/three"))

    document = anvyl("models", "--json").json

    assert [(one["name"], one["loaded"], one["answers"]) for one in document["models"]] == [
        ("a/one", True, False),
        ("b/two", True, True),
        ("c/three", False, False),
    ]
    assert "b/two" in anvyl("models").out


def test_models_use_changes_only_one_setting(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("a/one"), ListedModel("b/two"))
    file = settings.config_dir / "config.toml"
    file.write_text('# mine\nname = "vm"\n', encoding="utf-8")

    result = anvyl("models", "use", "b/two")

    assert result.code == 0, result.err
    assert file.read_text(encoding="utf-8").startswith("# mine\n")
    assert tomllib.loads(file.read_text(encoding="utf-8")) == {"name": "vm", "lmstudio_model": "b/two"}
    wrong = anvyl("models", "use", "b/tow")
    assert (wrong.code, "did you mean `b/two`?" in wrong.err) == (4, True)


def test_models_load_reports_the_context_that_lm_studio_allocated(
    settings: Settings, model_server: ModelServer
) -> None:
    model_server.list_models(ListedModel("a/one"))
    model_server.pages["/api/v1/models/load"] = raw({"status": "loaded", "load_config": {"context_length": 8192}})

    result = anvyl("models", "load", "a/one")

    assert result.code == 0, result.err
    assert "with only 8192 tokens of context: not enough memory for more" in result.err


def test_a_loaded_model_is_not_loaded_again(settings: Settings, model_server: ModelServer) -> None:
    result = anvyl("models", "load", MODEL)

    assert (result.code, "is already loaded" in result.err) == (4, True)


def test_a_failed_load_reports_the_reason(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("a/one"))
    model_server.pages["/api/v1/models/load"] = raw({"error": {"message": "not enough memory"}}, status=500)

    result = anvyl("models", "load", "a/one")

    assert (result.code, "not enough memory" in result.err) == (4, True)


def test_doctor_reports_a_working_setup(settings: Settings, model_server: ModelServer, engine: RealEngine) -> None:
    model_server.replies.append(tool_call("list_containers", {}))

    result = anvyl("doctor", "--json")

    verdicts = {one["about"]: one["verdict"] for one in result.json["findings"]}
    assert result.code == 0, result.out
    assert verdicts == {"engine": "ok", "server": "note", "hosts": "note", "model server": "ok", "model": "ok"}


def test_doctor_reports_the_problem_of_each_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "hosts.toml").write_text('[hosts.nas]\nurl = "http://127.0.0.1:1"\n', encoding="utf-8")

    result = anvyl("doctor")

    assert result.code == 1
    assert "no Docker engine is running" in result.out
    assert "`nas` is unreachable: connection refused" in result.out
    assert "no model server listens at http://127.0.0.1:1/v1" in result.out


def test_doctor_suggests_a_model_server_on_another_port_without_using_it(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anvyl_mcp.orchestrator.ask.doctor.PORTS", (model_server.port,))

    result = anvyl("doctor")

    assert f"use it: export ANVYL_LMSTUDIO_URL=http://localhost:{model_server.port}/v1" in result.out
    assert model_server.requests == []


def test_doctor_recognizes_a_model_server_by_its_responses_not_its_port(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A web server on port 8080 is not llama.cpp."""
    monkeypatch.setattr("anvyl_mcp.orchestrator.ask.doctor.PORTS", (model_server.port,))
    page = "<html><h1>{}</h1></html>"
    for status, body in (
        (404, page),
        (404, '{"detail": "Not Found"}'),
        (401, page),
        (200, page),
        (200, '{"data": []}'),
    ):
        model_server.pages = {"/v1/models": raw(body, status=status)}
        result = anvyl("doctor")
        assert f":{model_server.port}" not in result.out, (status, body)
    plain_list(model_server, "qwen.gguf")
    assert "an OpenAI-compatible server answers at" in anvyl("doctor").out
    model_server.pages["/props"] = raw({"default_generation_settings": {"n_ctx": 8192}})
    assert "llama.cpp answers at" in anvyl("doctor").out
    model_server.pages = {"/v1/models": error("Missing API key", status=401)}
    assert "a model server answers at" in anvyl("doctor").out


@pytest.mark.parametrize("status", [404, 401])
def test_doctor_reports_a_web_server_at_the_model_servers_address(
    settings: Settings, model_server: ModelServer, status: int
) -> None:
    model_server.pages = dict.fromkeys(
        ("/api/v1/models", "/api/v0/models", "/v1/models"), raw("<html>nginx</html>", status=status)
    )
    result = anvyl("doctor")
    assert result.code == 1
    assert f"the server at {model_server.url} " in result.out


PROBES: dict[str, tuple[Reply, str, tuple[str, ...]]] = {
    "no tools": (
        error("registry.ollama.ai/library/gemma3:4b does not support tools", status=400),
        "wrong",
        ("does not support tools", "anvyl models"),
    ),
    "no template": (
        error("tools param requires --jinja flag", status=500),
        "wrong",
        ("start llama-server with --jinja",),
    ),
    "roles": (error("Conversation roles must alternate user/assistant", status=400), "wrong", ("chat template",)),
    "a stream": (raw('data: {"choices": []}\n\n', media_type="text/event-stream"), "wrong", ("stream of events",)),
    "a page": (raw("<html>", media_type="text/html"), "wrong", ("not JSON",)),
    "odd": (raw({"choices": []}), "wrong", ("not a chat completion",)),
    "words": (text("I cannot do that."), "note", ("text instead of a tool call",)),
    "unreadable": (text("<tool_call>{"), "note", ("cannot be read",)),
    "announced": (completion({"content": ""}, finish_reason="tool_calls"), "note", ("cannot be read",)),
    "as text": (text("[TOOL_CALLS]list_containers[ARGS]{}"), "ok", ("writes tool calls as text",)),
}


@pytest.mark.parametrize("probe", PROBES)
def test_doctor_probes_the_model_with_one_tool_call(settings: Settings, model_server: ModelServer, probe: str) -> None:
    reply, verdict, words = PROBES[probe]
    model_server.replies.append(reply)

    findings = anvyl("doctor", "--json").json["findings"]

    last = [one for one in findings if one["about"] == "model"][-1]
    assert last["verdict"] == verdict
    assert all(one in f"{last['said']} {last['hint']}" for one in words)
    [asked] = model_server.requests
    assert [tool["function"]["name"] for tool in asked["tools"]] == ["list_containers"]


def test_doctor_does_not_load_a_model(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("a/one"))
    anvyl("doctor")
    assert model_server.requests == []


def test_doctor_reports_a_small_context(settings: Settings, model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("a/one", 4096))

    assert "anvyl models load a/one --context-length 16384" in anvyl("doctor").out


@pytest.mark.parametrize(
    ("question", "model"),
    [
        ("list all containers", "small"),
        ("which host has the most memory free?", "small"),
        ("stop web", ""),
        ("stop web, then start it again", "big"),
        ("why does web restart?", "big"),
    ],
)
def test_reads_use_the_fast_model_and_several_steps_the_smart_one(question: str, model: str, tmp_path: Path) -> None:
    from anvyl_mcp.app.catalogue import load_catalogue

    settings = settings_module.load({"model_fast": "small", "model_smart": "big"})

    assert model_for(settings, question, load_catalogue(tmp_path).values()) == model


def test_the_api_key_can_be_in_the_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    import keyring
    from keyring.errors import NoKeyringError

    settings = settings_module.load({"llm_api_key": "keyring"})

    def none(service: str, user: str) -> str:
        raise NoKeyringError("no backend")

    monkeypatch.setattr(keyring, "get_password", none)
    with pytest.raises(ModelUnavailable, match="the keyring cannot be read: no backend"):
        servers.api_key(settings)
    monkeypatch.setattr(keyring, "get_password", lambda service, user: f"{service}/{user}")
    assert servers.api_key(settings) == "anvyl-mcp/llm-api-key"
    assert "keyring" not in json.dumps(str(settings))
