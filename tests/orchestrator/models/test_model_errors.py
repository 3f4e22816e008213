"""Errors of a model server reach the person with what to do, whether the rules understand the question or not.

The reports: monize#405, zmNinjaNg#309, picobot#6 (Ollama's 400 hidden behind a general sentence), ollama#4967 and #3839
(a prompt that was cut without a word).
"""

from __future__ import annotations

import pytest

from tests.support.hosts.nodes import anvyl
from tests.support.model_server import (
    FAILURES,
    ListedModel,
    ModelServer,
    Reply,
    completion,
    error,
    raw,
    text,
    tool_call,
)

UNCLEAR = "could you have a look whether the wiki thing feels sluggish to you today"
"""A question that the rules do not understand."""
ERRORS: dict[str, tuple[Reply, str, str]] = {
    "Ollama": (
        error("registry.ollama.ai/library/gemma3:4b does not support tools", status=400),
        "does not support tools",
        "anvyl models",
    ),
    "llama.cpp": (
        error("tools param requires --jinja flag", status=500),
        "--jinja flag",
        "start llama-server with --jinja",
    ),
    "vLLM": (
        error('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', status=400),
        "tool choice requires",
        "start vLLM with",
    ),
    "roles": (
        error("Conversation roles must alternate user/assistant/user/assistant/...", status=400),
        "roles must alternate",
        "chat template",
    ),
    "system role": (error("System role not supported", status=500, as_text=True), "System role", "chat template"),
    "crash": (error("llama runner process has terminated: exit status 2", status=500), "has terminated", "log"),
    "a stream": (
        raw('data: {"choices": []}\n\ndata: [DONE]\n\n', media_type="text/event-stream"),
        "stream of events",
        "turn off forced streaming",
    ),
    "calls announced": (completion({"content": None}, finish_reason="tool_calls"), "sent none", "ANVYL_DRIVE=plan"),
    "unreadable call": (text("<|tool_call_start|>[stop("), "cannot be read", "ANVYL_DRIVE=plan"),
    "unloaded": (error("Model unloaded.", status=400, as_text=True), "Model unloaded", "load one: anvyl models"),
    "too many requests": (error("Rate limit reached", status=429), "has too many requests: Rate limit", "later"),
    "half of a JSON": (FAILURES["half of a JSON"], "cannot be used: it is not JSON", "check ANVYL_LMSTUDIO_URL"),
    "a smaller context than listed": (
        error("This model's maximum context length is 4096 tokens, your messages have 5120.", status=400),
        "do not fit into the context of 4096 tokens",
        "more context",
    ),
    "something new": (error("the flux is not inverted", status=418), "flux is not inverted", "anvyl doctor"),
}


@pytest.fixture(autouse=True)
def asked(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", model_server.url)
    monkeypatch.setenv("ANVYL_DRIVE", "tools")


@pytest.mark.parametrize("name", ERRORS)
def test_the_models_error_is_reported_if_the_rules_do_not_understand(model_server: ModelServer, name: str) -> None:
    reply, words, step = ERRORS[name]
    model_server.replies.append(reply)

    done = anvyl("ask", "--json", UNCLEAR)

    assert done.code == 4
    error = done.json["error"]
    assert error["code"] == "not_understood"
    assert words in error["message"] and step in error["hint"]
    assert "model server" not in error["message"] or model_server.url in error["message"] or reply.status == 200
    assert "no rule" not in error["message"] + error["hint"]


def test_arguments_that_are_not_json_go_back_to_the_model(model_server: ModelServer) -> None:
    broken = tool_call("list_hosts", '{"host": ')
    model_server.replies += [broken, text("Here they are.")]

    assert anvyl("ask", "--json", UNCLEAR).json["answer"] == "Here they are."
    assert "one JSON object" in str(model_server.requests[1]["messages"][-1]["content"])

    model_server.replies += [broken, broken]
    failed = anvyl("ask", "--json", UNCLEAR)
    assert (failed.code, failed.json["error"]["code"]) == (4, "model_unavailable")
    assert "`list_hosts` that are not JSON" in failed.json["error"]["message"]


def test_a_very_long_answer_is_cut(model_server: ModelServer) -> None:
    """A model that repeats itself; the checks of its text must not take time that grows with its square."""
    model_server.replies.append(text("There is work to do. " * 50_000))

    done = anvyl("ask", "--json", UNCLEAR)

    assert done.code == 0 and len(done.json["answer"]) < 33_000 and done.json["answer"].endswith("(cut)")


def test_the_models_error_is_a_note_if_the_rules_answer(model_server: ModelServer) -> None:
    reply, words, step = ERRORS["Ollama"]
    model_server.replies.append(reply)

    done = anvyl("ask", "--json", "list hosts")

    assert (done.code, done.json["mode"]) == (0, "rules")
    [note] = done.json["notes"]
    assert words in note and step in note and "answered by rules" in note


def test_the_models_error_is_a_note_if_the_call_of_the_rules_failed(model_server: ModelServer) -> None:
    reply, words, _ = ERRORS["Ollama"]
    model_server.replies.append(reply)

    done = anvyl("ask", "--json", "show logs of nowhere")

    assert done.json["error"] is not None
    assert any(words in one for one in [*done.json["notes"], done.json["error"]["message"]])


def cut(model_server: ModelServer, read: int) -> list[str]:
    """Notes about an answer for which the server reported this many prompt tokens."""
    usage = {"prompt_tokens": read, "completion_tokens": 9, "total_tokens": read + 9}
    model_server.replies.append(text("I cannot access your containers?", usage=usage))
    notes: list[str] = anvyl("ask", "--json", UNCLEAR).json["notes"]
    return [note for note in notes if "the model server read only" in note]


def test_a_truncated_prompt_is_reported_with_a_hint_for_that_server(model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("a/one", 2048))
    assert "anvyl models load a/one --context-length 16384" in cut(model_server, 2048)[0]

    model_server.list_models(ListedModel("a/one"), api="openai")
    model_server.pages["/api/ps"] = raw({"models": [{"name": "a/one", "context_length": 2048}]})
    [note] = cut(model_server, 2048)
    assert "OLLAMA_CONTEXT_LENGTH=16384" in note and "num_ctx" in note
    model_server.pages.pop("/api/ps")
    model_server.pages["/props"] = raw({"default_generation_settings": {"n_ctx": 512}})
    assert "-c 16384" in cut(model_server, 300)[0]


def test_a_complete_prompt_is_not_reported_as_truncated(model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("a/one", 32768))
    assert cut(model_server, 3000) == []
    # Some servers do not count cached tokens.
    assert cut(model_server, 40) == []
    model_server.list_models(ListedModel("a/one"), api="openai")
    assert cut(model_server, 0) == []


def test_a_model_with_nothing_to_add_to_its_results_has_not_failed(model_server: ModelServer) -> None:
    model_server.replies += [tool_call("list_hosts", {}), completion({"content": "", "reasoning_content": "All seen."})]

    done = anvyl("ask", UNCLEAR, ANVYL_LMSTUDIO_URL=model_server.url)

    assert (done.code, "failed" in done.err) == (0, False)
    assert "here" in done.out
