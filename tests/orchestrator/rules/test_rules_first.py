"""When the rules answer: first, as a fallback, or never; and the same with and without the agent framework."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
from opentelemetry.trace import NoOpTracerProvider
from pydantic_ai.capabilities import Instrumentation
from pydantic_ai.models.instrumented import InstrumentationSettings

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.core.errors import ModelUnavailable
from anvyl_mcp.core.settings import Settings, load
from anvyl_mcp.evaluation.acts.world import World
from anvyl_mcp.evaluation.simulation import Simulation
from anvyl_mcp.orchestrator import telemetry
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.ask.quick_answer import answer_quickly
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.orchestrator.run import Run
from tests.support.model_server import ModelServer
from tests.support.model_server import text as says

UNTRACED = InstrumentationSettings(tracer_provider=NoOpTracerProvider())
SAID = "I have no tool for that."


async def ask(question: str, settings: Settings, *, offline: bool = False) -> Reply:
    simulation = Simulation(World.patched({}), load_catalogue(settings.cache_dir))
    try:
        return await Assistant(simulation.fleet, settings).ask(Question(question), decide=decide, offline=offline)
    finally:
        await simulation.fleet.aclose()


async def decide(proposal: Proposal) -> bool | None:
    """A person who approves all but what concerns jupyter."""
    return None if proposal.hosts == ["web2"] else proposal.arguments.get("name") != "jupyter"


async def quickly(question: str, settings: Settings, *, offline: bool = False) -> Reply | None:
    simulation = Simulation(World.patched({}), load_catalogue(settings.cache_dir))
    try:
        run = Run(Question(question))
        return await answer_quickly(run, decide, fleet=simulation.fleet, settings=settings, model="", offline=offline)
    finally:
        await simulation.fleet.aclose()


@pytest.fixture
def settings(model_server: ModelServer) -> Settings:
    """A model server that is not needed for what the rules read."""
    model_server.replies += [says(SAID), says(SAID), says(SAID)]
    return replace(load(), lmstudio_url=model_server.url, rules="first")


async def test_the_rules_answer_first_what_they_account_for(settings: Settings, model_server: ModelServer) -> None:
    reply = await ask("list containers on gpu", settings)
    short = await quickly("list containers on gpu", settings)

    assert short and short.answer == reply.answer == "2 containers (2 running) on gpu." and reply.mode == "rules"
    assert not model_server.requests


@pytest.mark.parametrize(
    "question",
    ["restart homeassistant", "restrat grafana", "restart grafana, it hangs", "is it going to rain in Oslo?"],
)
async def test_a_known_verb_without_a_known_object_is_left_to_the_model(
    question: str, settings: Settings, model_server: ModelServer
) -> None:
    reply = await ask(question, settings)

    assert model_server.requests and SAID in reply.answer and not reply.proposals


async def test_a_question_after_one_to_the_model_is_read_by_the_rules_again(
    settings: Settings, model_server: ModelServer
) -> None:
    await ask("tell me something nice", settings)
    asked = len(model_server.requests)
    reply = await ask("show logs of grafana", settings)

    assert asked and len(model_server.requests) == asked
    assert [call.tool for call in reply.calls] == ["get_container_logs"]


async def test_own_phrases_work_with_a_model(settings: Settings, model_server: ModelServer) -> None:
    own = replace(settings, phrases={"movie night": "stop ollama and jupyter"})
    reply = await ask("movie night", own)

    assert {one.arguments["name"] for one in reply.proposals} == {"ollama", "jupyter"}
    assert not model_server.requests


async def test_as_a_fallback_the_rules_wait_for_the_model(settings: Settings, model_server: ModelServer) -> None:
    fallback = replace(settings, rules="fallback")
    asked = await ask("is grafana running?", fallback)
    alone = await ask("is grafana running?", replace(fallback, lmstudio_url="http://127.0.0.1:1/v1"))

    assert model_server.requests and asked.mode == "model"
    assert alone.answer == "grafana is running on nas."
    assert await quickly("is grafana running?", fallback) is None


async def test_turned_off_the_rules_answer_nothing(settings: Settings) -> None:
    off = replace(settings, rules="off", lmstudio_url="http://127.0.0.1:1/v1")

    for offline in (False, True):
        reply = await ask("is grafana running?", off, offline=offline)
        assert isinstance(reply.error, ModelUnavailable) and not reply.calls
    assert await quickly("is grafana running?", off, offline=True) is None


@pytest.mark.parametrize(
    "question",
    [
        "list containers on nas",
        "which host has the most memory free?",
        "show the stopped containers and then the logs of worker",
        "pls check what grafana complains about",
        "wie viel speicher ist auf nas frei",
        "restart grafana",
        "stop grafana and jupyter",
        "stop jupyter and ollama, then remove ollama",
        "restart web on web2, then restart grafana",
        "restart grafana and then remove ghost on nas",
        "start grafana",
        "restart cache on all hosts that have it",
        "restart grafana please, the dashboards hang",
        "run nginx:1.27 as proxy on web1 with the volume /:/host",
        "scale nothing to 3",
        "restart homeassistant",
        "list containers on mars",
    ],
)
async def test_the_agent_framework_makes_no_difference(
    question: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same plan played directly, and by an agent, which tracing needs."""
    short = await quickly(question, settings, offline=True)
    monkeypatch.setattr(telemetry, "capabilities", lambda: [Instrumentation(UNTRACED)])
    long = await ask(question, settings, offline=True)

    assert short is not None
    assert (short.answer, short.exit_code, short.notes) == (long.answer, long.exit_code, long.notes)
    assert sorted((one.tool, one.host) for one in short.calls) == sorted((one.tool, one.host) for one in long.calls)
    assert [(one.tool, one.hosts, one.decision, one.why, one.details) for one in short.proposals] == [
        (one.tool, one.hosts, one.decision, one.why, one.details) for one in long.proposals
    ]


async def test_an_order_that_the_rules_account_for_waits_for_no_model(
    settings: Settings, model_server: ModelServer
) -> None:
    done = await quickly("restart grafana", settings)

    assert done and done.answer == "Restarted grafana on nas." and not model_server.requests
    assert await quickly("restart grafana, it hangs", settings) is None
    assert await quickly("make me a sandwich", settings) is None


@pytest.mark.parametrize(
    ("question", "made"),
    [
        ("restart web on web1 and then restart web on web2", 2),
        ("stop grafana, then start grafana and then stop grafana", 3),
    ],
)
async def test_a_step_like_an_earlier_one_is_made(question: str, made: int, settings: Settings) -> None:
    """Without a model, and before one."""
    for offline in (True, False):
        reply = await ask(question, settings, offline=offline)

        assert len(reply.proposals) == made and reply.mode == "rules", reply.answer


def test_an_order_by_rules_imports_no_agent_framework(settings: Settings) -> None:
    """The import takes seconds on a busy machine."""
    code = """
        import asyncio, sys
        from anvyl_mcp.app.catalogue import load_catalogue
        from anvyl_mcp.cli.conversation import ask_session, question_session
        from anvyl_mcp.core.settings import load
        from anvyl_mcp.evaluation.acts.world import World
        from anvyl_mcp.evaluation.simulation import Simulation
        from anvyl_mcp.orchestrator.ask.quick_answer import answer_quickly
        from anvyl_mcp.orchestrator.question import Question
        from anvyl_mcp.orchestrator.run import Run

        async def main():
            fleet = Simulation(World.patched({}), load_catalogue(load().cache_dir)).fleet
            run = Run(Question("restart grafana"))
            reply = await answer_quickly(run, approve, fleet=fleet, settings=load(), model="", offline=True)
            await fleet.aclose()
            print(reply.answer, {"pydantic_ai", "openai"} & sys.modules.keys())

        async def approve(proposal):
            return True

        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Restarted grafana on nas. set()"
