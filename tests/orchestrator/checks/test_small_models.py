"""A small model's calls pass the checks of any other: what its words do not name, a person sees with the reason.

Every model here is scripted to be wrong in a way that real small models are (seen with a 1.5B and a 0.5B).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.core.settings import load
from anvyl_mcp.evaluation.acts.world import World
from anvyl_mcp.evaluation.simulation import Simulation
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.language.intent import read_wish
from anvyl_mcp.orchestrator.models import model_choice
from anvyl_mcp.orchestrator.models.servers.model_server import OPENAI_COMPATIBLE
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.reply import Reply

ScriptedResponse = tuple[str, dict[str, Any]] | str


class ScriptedAssistant:
    """A simulated fleet, a scripted model, and a person whose answer is `says`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.world = World.patched({})
        self.simulation = Simulation(self.world, load_catalogue(load().cache_dir))
        self.proposed: list[Proposal] = []
        self.says: bool | None = True
        self.requests = 0

    async def __call__(
        self, question: str, *said: ScriptedResponse | Sequence[ScriptedResponse], earlier: str = ""
    ) -> Reply:
        script = list(said)

        def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            self.requests += 1
            turn = script.pop(0) if script else "That is all."
            turns = [turn] if isinstance(turn, str) or isinstance(turn[0], str) else list(turn)
            return ModelResponse(parts=[_part(one, at) for at, one in enumerate(turns)])

        async def choose(*_: Any, **__: Any) -> model_choice.ModelChoice:
            return model_choice.ModelChoice("scripted-1.5b", OPENAI_COMPATIBLE)

        async def decide(proposal: Proposal) -> bool | None:
            self.proposed.append(proposal)
            return self.says

        self._patch.setattr(model_choice, "choose_model", choose)
        self._patch.setattr(model_choice, "build_model", lambda *_: FunctionModel(respond, model_name="scripted"))
        assistant = Assistant(self.simulation.fleet, load({"drive": "tools"}))
        return await assistant.ask(Question(question, earlier=earlier), decide=decide)

    @property
    def done(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Every change that a host made."""
        return [(one.host, one.tool, dict(one.arguments)) for one in self.simulation.done]


def _part(said: Any, at: int) -> TextPart | ToolCallPart:
    return TextPart(said) if isinstance(said, str) else ToolCallPart(said[0], said[1], tool_call_id=f"call_{at}")


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> ScriptedAssistant:
    return ScriptedAssistant(monkeypatch)


def calls_made(reply: Reply) -> list[tuple[str, str, dict[str, Any]]]:
    """All calls that were made."""
    return [(call.host, call.tool, dict(call.arguments)) for call in reply.calls]


@pytest.mark.parametrize(
    ("question", "call", "why"),
    [
        ("what runs on nas?", ("stop_container", {"name": "backup"}), "your question only asks to look"),
        ("stop grafana", ("remove_container", {"name": "grafana", "force": True}), "you asked to stop"),
        ("remove the broken one", ("remove_container", {"name": "backup"}), "`name=backup`"),
        ("remove grafna", ("remove_container", {"name": "grafana"}), "`name=grafana`"),
        (
            "run `df -h` on nas",
            ("execute_command", {"command": "rm -rf /data", "host": "nas"}),
            'command="rm -rf /data"',
        ),
        ("do something useful with db", ("remove_container", {"name": "db"}), "do not ask to remove a container"),
        ("stop mysql", ("stop_container", {"name": "db"}), "`name=db`"),
        ("restart web", ("restart_container", {"name": "web", "host": "web1"}), "`host=web1`"),
    ],
)
async def test_a_change_that_the_words_do_not_name_waits_for_a_person_who_sees_why(
    question: str, call: ScriptedResponse, why: str, ask: ScriptedAssistant
) -> None:
    ask.says = None

    reply = await ask(question, call)

    [proposal] = reply.proposals
    assert ask.done == [] and reply.exit_code == 5
    assert not proposal.covered and why in proposal.why
    assert any(why in note for note in reply.notes), "the reason is shown"


@pytest.mark.parametrize(
    ("question", "call", "code"),
    [
        ("restart web", ("restart_container", {"name": "web"}), "conflict"),
        ("stop mysql", ("stop_container", {"name": "mysql"}), "not_found"),
    ],
)
async def test_a_failed_change_is_a_failure_even_after_successful_reads(
    question: str, call: ScriptedResponse, code: str, ask: ScriptedAssistant
) -> None:
    reply = await ask(question, ("list_containers", {}), call, "I could not do that.")

    assert calls_made(reply) and ask.done == []
    assert reply.exit_code == 1 and reply.error is not None and reply.error.code == code


async def test_a_mistake_that_the_model_corrects_is_not_a_failure(ask: ScriptedAssistant) -> None:
    reply = await ask(
        "stop grafana if its log has errors",
        ("get_container_logs", {"name": "grafana", "lines": 5}),
        ("get_container_logs", {"name": "grafana"}),
        "Its log has no errors, so it still runs.",
    )

    assert (reply.error, reply.exit_code, ask.done) == (None, 0, [])


async def test_a_repeated_call_ends_the_question_with_its_results(ask: ScriptedAssistant) -> None:
    """Small models (0.5B, 1.5B) often repeat a call until the limit."""
    call = ("list_containers", {"host": "gpu"})

    reply = await ask("what runs on gpu?", call, call, call, call)

    assert (len(reply.calls), reply.error, reply.usage["requests"]) == (1, None, 3)
    assert "ollama" in str(reply.calls[0].answer.result) and "gpu" in reply.answer


async def test_a_change_made_twice_by_the_model_is_made_once(ask: ScriptedAssistant) -> None:
    call = ("restart_container", {"name": "grafana"})

    reply = await ask("restart grafana", call, call)

    assert len(ask.done) == len(ask.proposed) == 1
    assert reply.answer == "Restarted grafana on nas.\nThat is all."


async def test_two_changes_with_one_id_are_two_proposals(ask: ScriptedAssistant) -> None:
    """llama.cpp restarts the numbering of calls in every response."""
    reply = await ask(
        "stop grafana and jupyter", ("stop_container", {"name": "grafana"}), ("stop_container", {"name": "jupyter"})
    )

    assert [proposal.arguments["name"] for proposal in reply.proposals] == ["grafana", "jupyter"]
    assert [host for host, *_ in ask.done] == ["nas", "gpu"]


async def test_changes_are_described_from_results_not_by_the_model(ask: ScriptedAssistant) -> None:
    reply = await ask("stop grafana", ("stop_container", {"name": "grafana"}), "I stopped grafana and db on all hosts.")

    assert reply.answer == "Stopped grafana on nas."


@pytest.mark.parametrize(
    "claim", ["I have stopped grafana.", "Done!", "grafana was stopped.", "Stopped the container."]
)
async def test_a_change_that_the_model_only_claims_is_not_reported(claim: str, ask: ScriptedAssistant) -> None:
    reply = await ask("put it to sleep for the night", claim)

    assert ask.done == []
    assert "Nothing was changed" in reply.answer and claim not in reply.answer


INJECTED = (
    ("get_container_logs", {"name": "web", "host": "web2"}),
    ("remove_container", {"name": "grafana", "force": True}),
    "Removed.",
)
AFTER_LOGS = "`remove_container` was proposed after reading logs of web on web2"


async def test_a_change_that_may_come_from_a_log_waits_and_is_not_covered_by_yes(
    ask: ScriptedAssistant,
) -> None:
    reply = await ask("look at the logs of web on web2 and start api", *INJECTED)

    assert (ask.done, ask.proposed, reply.exit_code) == ([], [], 5)
    [waiting] = reply.waiting
    assert (waiting.tool, waiting.hosts, waiting.untrusted) == ("remove_container", ["nas"], "logs of web on web2")
    assert "Nothing was changed" in reply.answer and "Removed" not in reply.answer
    assert (
        waiting.why == "you asked to start; you did not say `name=grafana`; proposed after reading logs of web on web2"
    )


async def test_a_log_cannot_propose_a_change_if_the_question_only_reads(ask: ScriptedAssistant) -> None:
    reply = await ask("what does web log on web2?", *INJECTED)

    assert (ask.done, ask.proposed, reply.waiting, reply.exit_code) == ([], [], [], 0)
    assert "Removed" not in reply.answer and reply.notes == [AFTER_LOGS]


async def test_a_question_of_the_model_is_shown(ask: ScriptedAssistant) -> None:
    reply = await ask("restart it", "Which container do you mean?")

    assert reply.answer == "Which container do you mean?"


async def test_names_from_earlier_questions_are_accepted(ask: ScriptedAssistant) -> None:
    await ask("restart it", ("restart_container", {"name": "web", "host": "web2"}), earlier="is web on web2 running?")

    assert ask.done == [("web2", "restart_container", {"name": "web"})]


async def test_a_host_that_does_not_answer_is_always_named(ask: ScriptedAssistant) -> None:
    ask.world.hosts["gpu"].down = True

    reply = await ask("what runs?", ("list_containers", {}), "Everything runs fine everywhere.")

    assert "gpu is missing: " in reply.answer and "answers" not in reply.answer


async def test_a_change_of_an_object_from_a_result_waits_for_approval(ask: ScriptedAssistant) -> None:
    """The name comes from a result, which is untrusted."""
    await ask(
        "look around and restart what needs it", ("list_containers", {}), ("restart_container", {"name": "grafana"})
    )

    assert [proposal.untrusted != "" for proposal in ask.proposed] == [True]


@pytest.mark.parametrize(
    ("said", "intent", "verbs"),
    [
        ("show me the stopped containers", "read", set()),
        ("stop web", "change", {"stop"}),
        ("if web is down, restart it", "change", {"restart"}),
        ("what happens if I stop web?", "read", set()),
        ("don't stop web, just show its logs", "read", set()),
        ("I want old-test gone", "change", {"remove"}),
        ("web needs a restart", "change", {"restart"}),
        ("web should be restarted", "change", {"restart"}),
        ("take the db down on nas", "change", {"stop"}),
        ("make sure redis is running on gpu", "unclear", set()),
    ],
)
def test_the_intent_is_read_from_the_words(said: str, intent: str, verbs: set[str]) -> None:
    wish = read_wish(said, load_catalogue(load().cache_dir).values())

    assert (wish.intent, set(wish.verbs)) == (intent, verbs)


async def test_counts_and_comparisons_are_computed_from_results(ask: ScriptedAssistant) -> None:
    counted = await ask("how many containers run on nas?", ("list_containers", {}), "There are 7 containers.")
    compared = await ask("which host has the most memory free?", ("get_host_resources", {}), "That would be nas.")

    assert "5" in counted.answer and "7" not in counted.answer
    assert "gpu" in compared.answer and "That would be nas" not in compared.answer


async def test_a_claim_about_the_fleet_without_a_call_is_marked(ask: ScriptedAssistant) -> None:
    reply = await ask("so how does it look over there with all of it?", "Everything is running fine.")

    assert reply.answer == "No host was asked.\nEverything is running fine."


async def test_truncated_lists_are_reported(ask: ScriptedAssistant) -> None:
    call = ("list_images", {"limit": 2, "host": "nas"})

    reply = await ask("show 2 images of nas", call, "These are all images.")

    assert reply.answer == "These are all images.\nnas has 4 more that are not shown."
