"""The assistant with a scripted model: calls, approvals, and the end of a run when the model fails."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import ModelAPIError, UsageLimits
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.errors import (
    AnvylError,
    EngineMissing,
    ModelUnavailable,
    NotFound,
    NotUnderstood,
    Refused,
    UnknownHost,
)
from anvyl_mcp.core.settings import load
from anvyl_mcp.orchestrator.ask import agent as agent_module
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.models import model_choice
from anvyl_mcp.orchestrator.models.servers.model_server import OPENAI_COMPATIBLE
from anvyl_mcp.orchestrator.question import Decide, Proposal, Question, leave_pending
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.orchestrator.run import EndReason, Run
from anvyl_mcp.peers.connection.listing import Connection, ProgressCallback, ToolAnswer
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.hosts.registry import Peer, Registry
from tests.support.model_server import ModelServer, tool_call
from tests.support.model_server import text as words
from tests.support.stubs import StubConnection

REFUSED_SECONDS = 0.5
"""Time for the rules after the model server refused the connection."""


@dataclass
class Host(StubConnection):
    """A host with containers that records its calls."""

    containers: list[str]
    error: AnvylError | None = None
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        seconds: float,
        meta: Mapping[str, Any] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> ToolAnswer:
        if self.error is not None:
            raise self.error
        self.calls.append((tool, dict(arguments)))
        if tool == "list_containers":
            about = {"image": "x", "state": "running", "status": "Up", "health": "", "ports": [], "created": ""}
            rows = [{"id": name * 6, "name": name, **about} for name in self.containers]
            return ToolAnswer({"containers": rows, "total": len(rows), "more": 0}, "\n".join(self.containers))
        if arguments.get("name", "web") not in self.containers:
            return ToolAnswer(error=NotFound(f"there is no container `{arguments.get('name')}`"))
        if tool == "get_container_logs":
            return ToolAnswer({"lines": ["up"], "truncated": False, "next_since": ""}, "up")
        return ToolAnswer({"id": "1", "name": "web", "image": "x", "state": "exited"}, "web: exited")

    @property
    def changes(self) -> list[str]:
        """Tools that changed something."""
        return [tool for tool, _ in self.calls if not tool.startswith(("list_", "get_"))]


@pytest.fixture
def here() -> Host:
    return Host(["web"])


@pytest.fixture
def far() -> Host:
    return Host(["db"])


@pytest.fixture
async def assistant(here: Host, far: Host, tmp_path: Path) -> AsyncIterator[Assistant]:
    """An assistant for this host, `here`, and its peer `nas`."""
    registry = Registry(tmp_path / "fleet.toml")
    registry.add(Peer("nas", "http://127.0.0.1:4210"))

    def connect(peer: Peer) -> Connection:
        return here if peer.name == "here" else far

    settings = load()
    fleet = Fleet(Peer("here", "memory:"), registry, Node(settings).fleet.catalogue, connect)
    yield Assistant(fleet, settings)
    await fleet.aclose()


Turn = ToolCallPart | str | Exception
Script = Callable[..., list[list[ModelMessage]]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Install a model that gives these responses, one per request; returns the messages of each request."""

    def say(*turns: Turn | list[ToolCallPart], repeat: bool = False) -> list[list[ModelMessage]]:
        asked: list[list[ModelMessage]] = []

        def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            asked.append(messages)
            turn = turns[0] if repeat else turns[len(asked) - 1]
            if isinstance(turn, Exception):
                raise turn
            if isinstance(turn, list):
                return ModelResponse(parts=list(turn))
            return ModelResponse(parts=[TextPart(turn) if isinstance(turn, str) else turn])

        async def choose(*_: Any, **__: Any) -> model_choice.ModelChoice:
            return model_choice.ModelChoice("scripted", OPENAI_COMPATIBLE)

        monkeypatch.setattr(model_choice, "choose_model", choose)
        monkeypatch.setattr(model_choice, "build_model", lambda *_: FunctionModel(respond, model_name="scripted"))
        return asked

    return say


def calls(tool: str, *, id: str = "1", **arguments: Any) -> ToolCallPart:
    return ToolCallPart(tool, arguments, tool_call_id=id)


def decide(answer: bool | None, seen: list[Proposal] | None = None) -> Decide:
    async def answer_proposal(proposal: Proposal) -> bool | None:
        if seen is not None:
            seen.append(proposal)
        return answer

    return answer_proposal


def returned(messages: list[ModelMessage]) -> list[ToolReturnPart]:
    """Tool results that the model got, oldest first."""
    parts = [part for message in messages if isinstance(message, ModelRequest) for part in message.parts]
    return [part for part in parts if isinstance(part, ToolReturnPart)]


async def test_a_read_runs_on_every_host_without_asking(
    assistant: Assistant, script: Script, here: Host, far: Host
) -> None:
    asked = script(calls("list_containers", all=True), "web and db run.")
    seen: list[Proposal] = []

    reply = await assistant.ask(Question("what runs?"), decide=decide(True, seen))

    assert (reply.answer, reply.mode, reply.model, reply.error) == ("web and db run.", "model", "scripted", None)
    assert here.calls == far.calls == [("list_containers", {"all": True})]
    assert reply.hosts == {"here": "ok", "nas": "ok"}
    assert (seen, reply.exit_code, reply.notes) == ([], 0, [])
    assert returned(asked[1])[0].content == "here: web\n\nnas: db"


@pytest.mark.parametrize(
    ("answer", "decision", "changes", "code"),
    [(True, "approved", ["stop_container"], 0), (False, "denied", [], 5), (None, "pending", [], 5)],
)
async def test_a_change_is_made_only_after_approval(
    answer: bool | None, decision: str, changes: list[str], code: int, assistant: Assistant, script: Script, here: Host
) -> None:
    script(calls("stop_container", name="web"), "Done as you said.")
    seen: list[Proposal] = []

    reply = await assistant.ask(Question("stop web"), decide=decide(answer, seen))

    assert [(one.tool, one.arguments, one.hosts) for one in seen] == [("stop_container", {"name": "web"}, ["here"])]
    assert [one.decision for one in reply.proposals] == [decision]
    assert (here.changes, reply.exit_code) == (changes, code)
    assert [call.tool for call in reply.calls] == changes
    assert ("Nothing was changed" in reply.answer) is (answer is None)


async def test_a_model_cannot_repeat_a_denied_change(assistant: Assistant, script: Script, here: Host) -> None:
    asked = script(calls("stop_container", name="web"), calls("stop_container", id="2", name="web"), "I may not.")

    reply = await assistant.ask(Question("stop web"), decide=decide(False))

    assert "said no" in str(returned(asked[1])[0].content)
    assert [one.decision for one in reply.proposals] == ["denied"], "the person is asked twice about the same change"
    assert (here.changes, reply.exit_code) == ([], 5)
    assert reply.answer == "Cancelled; nothing was changed.\nI may not."


async def test_without_a_decision_every_change_waits(assistant: Assistant, script: Script, here: Host) -> None:
    script([calls("stop_container", id="1", name="web"), calls("restart_container", id="2", name="web")], "…")

    reply = await assistant.ask(Question("stop and restart web"), decide=leave_pending)

    assert [(one.tool, one.decision) for one in reply.waiting] == [
        ("stop_container", "pending"),
        ("restart_container", "pending"),
    ]
    assert reply.answer == "Waiting for approval: stop web on here and restart web on here. Nothing was changed yet."
    assert here.changes == []


async def test_reads_in_the_same_response_as_a_change_are_done_while_it_waits(
    assistant: Assistant, script: Script, here: Host
) -> None:
    script([calls("list_containers", id="1"), calls("stop_container", id="2", name="web")], "…")

    reply = await assistant.ask(Question("stop web and list"), decide=leave_pending)

    assert [call.tool for call in reply.calls] == ["list_containers", "list_containers"]
    assert (len(reply.waiting), here.changes) == (1, [])


async def test_an_approved_change_runs_on_the_shown_host(
    assistant: Assistant, script: Script, here: Host, far: Host
) -> None:
    """The container moves before the approval; the approved hosts are not resolved again."""
    script(calls("stop_container", name="web"), "Done.")

    async def slow_yes(proposal: Proposal) -> bool:
        here.containers, far.containers = [], ["web"]
        return True

    reply = await assistant.ask(Question("stop web"), decide=slow_yes)

    assert (here.changes, far.changes) == (["stop_container"], [])
    assert "no container `web`" in str(reply.calls[0].error)


async def test_a_proposal_after_reading_logs_names_them(assistant: Assistant, script: Script) -> None:
    script(calls("get_container_logs", name="web"), calls("stop_container", id="2", name="web"), "…")
    seen: list[Proposal] = []

    reply = await assistant.ask(Question("look at the logs of web and stop it"), decide=decide(None, seen))

    assert seen[0].untrusted == "logs of web on here"
    assert reply.notes == ["`stop_container` was proposed after reading logs of web on here"]


async def test_a_question_about_some_hosts_reaches_no_other(
    assistant: Assistant, script: Script, here: Host, far: Host
) -> None:
    asked = script(calls("list_containers"), calls("list_containers", id="2", host="here"), "Only nas was asked.")

    reply = await assistant.ask(Question("what runs on here?", host="nas"))

    assert (here.calls, far.calls) == ([], [("list_containers", {})])
    assert reply.hosts == {"nas": "ok"}
    assert "this question is about nas only, not here" in str(returned(asked[2])[1].content)


async def test_a_question_about_an_unknown_host_reaches_no_model(assistant: Assistant, script: Script) -> None:
    asked = script("never said")

    reply = await assistant.ask(Question("what runs?", host="nsa"))

    assert isinstance(reply.error, UnknownHost)
    assert (reply.error.hint, reply.exit_code, asked) == ("did you mean `nas`?", 2, [])


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (calls("stop_container", nam="web"), "no argument `nam`"),
        (calls("stop_container"), "needs `name`"),
        (calls("get_container_logs", name="wbx"), "did you mean `web`?"),
        (calls("create_container", image="x"), "needs a host"),
        (calls("stop_containr", name="web"), "stop_containr"),
    ],
    ids=lambda value: value.tool_name if isinstance(value, ToolCallPart) else "",
)
async def test_a_model_can_correct_a_wrong_call(
    wrong: ToolCallPart, expected: str, assistant: Assistant, script: Script, here: Host, far: Host
) -> None:
    asked = script(wrong, calls("list_containers", id="2"), "web and db run.")

    reply = await assistant.ask(Question("do something"), decide=decide(True))

    assert expected in str(asked[1][-1]).lower()
    assert (reply.answer, reply.error) == ("web and db run.", None)
    assert here.changes == far.changes == []


async def test_the_error_of_a_wrong_call_is_the_answer_if_it_is_not_corrected(
    assistant: Assistant, script: Script
) -> None:
    script(calls("stop_container", name="cache"), "I could not find it.")

    reply = await assistant.ask(Question("stop cache"), decide=decide(True))

    assert isinstance(reply.error, NotFound)
    assert (reply.exit_code, reply.calls) == (1, [])


async def test_host_lists_are_parsed_in_every_form_that_models_write(
    assistant: Assistant, script: Script, here: Host, far: Host
) -> None:
    script(
        calls("list_containers", id="1", host=["here", "nas"]),
        calls("list_containers", id="2", host="NAS"),
        calls("list_containers", id="3", host=None, label=None, all=True),
        "ok",
    )

    reply = await assistant.ask(Question("what runs on here and nas?"))

    assert [call.host for call in reply.calls].count("nas") == 3
    assert (len(here.calls), far.calls[2]) == (2, ("list_containers", {"all": True}))


@pytest.mark.parametrize(
    "error", [Refused("connection refused"), EngineMissing("no Docker engine is running on this host")]
)
async def test_a_dead_host_never_fails_a_question(
    error: AnvylError, assistant: Assistant, script: Script, far: Host
) -> None:
    far.error = error
    asked = script(calls("list_containers"), "web runs; nas does not answer.")

    reply = await assistant.ask(Question("what runs?"))

    assert (reply.error, reply.exit_code, reply.hosts["here"]) == (None, 3, "ok")
    assert reply.hosts["nas"].endswith(error.message)
    assert f"nas: error: {error.message}" in str(returned(asked[1])[0].content)


async def test_a_question_fails_if_every_host_is_dead(
    assistant: Assistant, script: Script, here: Host, far: Host
) -> None:
    here.error = far.error = Refused("connection refused")
    script(calls("list_containers"), "No host answers.")

    reply = await assistant.ask(Question("what runs?"))

    assert (reply.error, reply.exit_code) == (None, 1)
    assert reply.answer.startswith("No host answers.")
    assert "here is missing" in reply.answer and "nas is missing" in reply.answer


async def test_a_looping_model_is_stopped_and_its_results_are_shown(
    assistant: Assistant, script: Script, here: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "LIMITS", UsageLimits(request_limit=4, tool_calls_limit=30))
    ways: list[dict[str, Any]] = [{}, {"all": True}, {"name": "web"}, {"name": "web", "all": True}]
    asked = script(*(calls("list_containers", id=str(number), **way) for number, way in enumerate(ways)))

    reply = await assistant.ask(Question("what runs as web?"))

    assert len(asked) == 4
    assert reply.error is None and len(reply.calls) == 8
    assert reply.notes == ["the model `scripted` was stopped: it made too many requests"]
    assert "gave no summary" in reply.answer


async def test_a_looping_model_without_results_is_an_error(
    assistant: Assistant, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "LIMITS", UsageLimits(request_limit=3, tool_calls_limit=30))
    script(*(calls("get_container_logs", id=name, name=name) for name in ("x1", "x2", "x3")))

    reply = await assistant.ask(Question("what runs?"))

    assert isinstance(reply.error, ModelUnavailable)
    assert "too many requests" in reply.error.message and "--offline" in reply.error.hint


def test_a_question_cannot_be_changed() -> None:
    question = Question("what runs?")

    with pytest.raises(FrozenInstanceError):
        question.text = "stop web"  # type: ignore[misc]  # what is tested


@pytest.mark.parametrize(
    ("turns", "asked", "answer", "reason"),
    [
        ([calls("list_containers"), "web and db run."], "what runs?", None, EndReason.ANSWERED),
        ([calls("stop_container", name="web")], "stop web", None, EndReason.WAITING_FOR_APPROVAL),
        ([calls("stop_container", name="web"), "Then not."], "stop web", False, EndReason.ANSWERED),
        ([calls("stop_container", name="cache"), "Which one?"], "stop cache", True, EndReason.ANSWERED),
        ([calls("list_containers", id=str(at)) for at in range(3)], "what runs?", None, EndReason.REPEATED_CALL),
        ([calls("get_container_logs", name="x")] * 2, "show the logs of x", None, EndReason.REPEATED_FAILURE),
        ([calls("stop_containr", name="web")] * 4, "what runs?", None, EndReason.UNUSABLE_OUTPUT),
        ([], " ", None, EndReason.FAILED),
    ],
)
async def test_a_run_ends_for_one_reason(
    turns: list[Turn], asked: str, answer: bool | None, reason: EndReason, assistant: Assistant, script: Script
) -> None:
    script(*turns)
    run = Run(Question(asked))

    reply = await assistant.ask(run, decide=decide(answer))

    assert reply.run is run
    assert run.end_reason is reason
    run.end(EndReason.CANCELLED)
    assert run.end_reason is reason


async def test_a_looping_model_ends_the_run_out_of_budget(
    assistant: Assistant, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "LIMITS", UsageLimits(request_limit=1))
    script(calls("list_containers"))

    reply = await assistant.ask(Question("what runs?"))

    assert reply.run.end_reason is EndReason.OUT_OF_BUDGET


async def test_the_rules_answer_if_the_first_request_to_the_model_fails(
    assistant: Assistant, script: Script, here: Host
) -> None:
    script(ModelAPIError("scripted", "out of memory"), repeat=True)

    reply = await assistant.ask(Question("list containers on here"))

    assert (reply.mode, reply.error, reply.hosts) == ("rules", None, {"here": "ok"})
    assert len(reply.notes) == 1
    assert "the model `scripted` failed" in reply.notes[0] and "answered by rules" in reply.notes[0]


async def test_the_rules_continue_if_a_later_request_to_the_model_fails(
    assistant: Assistant, script: Script, here: Host
) -> None:
    script(calls("list_containers", host="here"), ModelAPIError("scripted", "out of memory"))

    reply = await assistant.ask(Question("list containers on here"))

    assert (reply.mode, reply.error) == ("rules", None)
    assert "the model `scripted` failed" in reply.notes[0]
    assert [call.tool for call in reply.calls] == ["list_containers"]


async def test_a_failed_model_and_rules_without_a_match_are_not_understood(
    assistant: Assistant, script: Script
) -> None:
    script(ModelAPIError("scripted", "out of memory"))

    reply = await assistant.ask(Question("make me a sandwich"))

    assert isinstance(reply.error, NotUnderstood)
    assert reply.exit_code == 4


async def test_a_refused_model_server_costs_half_a_second_at_most(assistant: Assistant, here: Host) -> None:
    """Modules are imported before the first question is timed."""
    await assistant.ask(Question("list containers on here"))
    started = time.monotonic()

    reply = await assistant.ask(Question("list containers on here"))

    assert time.monotonic() - started < REFUSED_SECONDS
    assert (reply.mode, reply.error) == ("rules", None)
    assert "no model server listens" in reply.notes[0] and "answered by rules" in reply.notes[0]


async def test_a_model_named_for_one_question_is_not_replaced_by_the_rules(assistant: Assistant) -> None:
    reply = await assistant.ask(Question("list containers"), model="qwen/none")

    assert isinstance(reply.error, ModelUnavailable)
    assert (reply.exit_code, reply.calls) == (4, [])


async def test_offline_asks_no_model(assistant: Assistant, script: Script, here: Host) -> None:
    asked = script("never said")

    reply = await assistant.ask(Question("list containers on here"), offline=True)

    assert (reply.mode, reply.model, reply.notes, asked) == ("rules", "rules", [], [])


@pytest.mark.parametrize("question", ["", " \n", "\x00\x1b[31m", "x" * 4001])
async def test_an_invalid_question_is_refused_before_a_model_is_asked(
    question: str, assistant: Assistant, script: Script
) -> None:
    asked = script("never said")

    reply = await assistant.ask(Question(question))

    assert reply.error is not None
    assert (reply.exit_code, asked) == (2, [])


async def test_a_large_result_is_cut_for_the_model_but_not_for_the_user(
    assistant: Assistant, script: Script, here: Host
) -> None:
    here.containers = [f"container-{number}" for number in range(1000)]
    asked = script(calls("list_containers", host="here"), "Many.")

    reply = await assistant.ask(Question("what runs?"))

    shown = str(returned(asked[1])[0].content)
    assert len(shown) < 6100 and "more characters" in shown
    assert len((reply.calls[0].answer.result or {})["containers"]) == 1000


async def test_calls_and_outcomes_are_reported_as_they_happen(assistant: Assistant, script: Script) -> None:
    script(calls("list_containers"), "ok")
    reported: list[str] = []
    question = Question(
        "what runs?",
        on_call=lambda tool, arguments, hosts: reported.append(f"{tool} on {','.join(hosts)}"),
        on_outcome=lambda outcome: reported.append(outcome.host),
    )

    await assistant.ask(question)

    assert reported[0] == "list_containers on here,nas"
    assert sorted(reported[1:]) == ["here", "nas"]


def document(reply: Reply) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(json.dumps(reply.as_dict()))
    return shown


async def test_the_document_has_the_fields_that_programs_rely_on(assistant: Assistant, script: Script) -> None:
    """The document of `anvyl ask --json`."""
    script(calls("stop_container", name="web"), "Done.")

    shown = document(await assistant.ask(Question("stop web"), decide=decide(True)))

    assert set(shown) >= {
        "question", "answer", "model", "mode", "calls", "approvals", "hosts", "usage", "seconds", "error"
    }  # fmt: skip
    [call] = shown["calls"]
    assert set(call) == {"tool", "arguments", "host", "ok", "result", "error", "seconds"}
    assert shown["approvals"] == [
        {"tool": "stop_container", "arguments": {"name": "web"}, "hosts": ["here"], "decision": "approved"}
    ]
    assert shown["usage"]["requests"] == 2
    assert shown["error"] is None


async def test_every_request_to_a_server_has_the_same_prefix(
    assistant: Assistant,
    model_server: ModelServer,
    monkeypatch: pytest.MonkeyPatch,
    here: Host,
    far: Host,
    tmp_path: Path,
) -> None:
    """The host list comes last, so that the server's prefix cache works for any number of hosts."""
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", model_server.url)
    prompts = []
    for number in range(2):
        registry = Registry(tmp_path / f"{number}.toml")
        for extra in range(number * 9):
            registry.add(Peer(f"host-{extra}", f"http://127.0.0.1:{4300 + extra}"))
        fleet = Fleet(Peer("here", "memory:"), registry, Node(load()).fleet.catalogue, lambda peer: here)
        model_server.replies += [tool_call("list_containers", {"host": "here"}), words("web runs.")]
        reply = await Assistant(fleet, load()).ask(Question("what runs?"))
        assert (reply.mode, reply.error) == ("model", None)
        prompts.append(model_server.requests[-2])

    one, ten = prompts
    assert json.dumps(one["tools"]) == json.dumps(ten["tools"])
    systems = [prompt["messages"][0]["content"] for prompt in prompts]
    assert systems[0].rpartition("Hosts: ")[0] == systems[1].rpartition("Hosts: ")[0] != ""
    assert "host-8" in systems[1].rpartition("Hosts: ")[2]
