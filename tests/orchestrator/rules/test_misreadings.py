"""Questions that the rules must refuse: unsupported commands, unknown objects, and the past."""

from __future__ import annotations

from typing import Any

import pytest

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.core.errors import NotFound, NotUnderstood
from anvyl_mcp.core.settings import load
from anvyl_mcp.evaluation.acts import ACTS
from anvyl_mcp.evaluation.acts.world import World
from anvyl_mcp.evaluation.simulation import Simulation
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.question import Question
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.orchestrator.rules import judgement
from tests.support.model_server import ModelServer
from tests.support.model_server import text as says


async def ask(question: str, *, offline: bool = True) -> Reply:
    simulation = Simulation(World.patched({}), load_catalogue(load().cache_dir))
    try:
        return await Assistant(simulation.fleet, load()).ask(Question(question), offline=offline)
    finally:
        await simulation.fleet.aclose()


def calls(reply: Reply) -> dict[str, dict[str, Any]]:
    return {call.tool: dict(call.arguments) for call in reply.calls}


@pytest.mark.parametrize(
    "order",
    [
        "ferma db",
        "停止 db",
        "unpause db",
        "pause db",
        "rename db to www",
        "rename nothing to www",
        "move grafana to gpu",
        "migrate db to web1",
        "copy db to gpu",
        "clone grafana",
        "back up the pgdata volume",
        "backup db",
        "limit db to 512mb",
        "set the memory of db to 512m",
        "change the port of grafana to 9090",
        "open a shell in db",
        "give grafana more memory",
        "tell bob to stop grafana",
        "my colleague wants grafana stopped",
    ],
)
async def test_an_unsupported_command_is_not_answered_with_a_read(order: str) -> None:
    reply = await ask(order)

    assert isinstance(reply.error, NotUnderstood) and reply.exit_code == NotUnderstood.exit_code
    assert reply.calls == [] and reply.proposals == [] and reply.error.hint


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("how much memory does mysql use", "`mysql`"),
        ("how long has nextcloud been running", "`nextcloud`"),
        ("is my nextcloud reachable", "`nextcloud`"),
        ("memory usage of nextcloud", "nextcloud"),
    ],
)
async def test_a_question_is_not_answered_about_something_else(question: str, answer: str) -> None:
    reply = await ask(question)

    assert reply.exit_code != 0 and answer in str(reply.error), (reply.answer, reply.error)
    assert reply.calls == []


@pytest.mark.parametrize(
    ("question", "hint"),
    [
        ("who can restart web", "anvyl-mcp token list"),
        ("am I allowed to stop db", "anvyl-mcp token list"),
        ("wer darf web neu starten", "anvyl-mcp token list"),
        ("qui peut redémarrer web", "anvyl-mcp token list"),
        ("quién puede reiniciar web", "anvyl-mcp token list"),
        ("undo that", "anvyl undo"),
        ("mach das rückgängig", "anvyl undo"),
        ("annule ça", "anvyl undo"),
        ("deshaz eso", "anvyl undo"),
    ],
)
async def test_rights_and_undoing_are_refused_with_what_answers(question: str, hint: str) -> None:
    reply = await ask(question)

    assert isinstance(reply.error, NotUnderstood) and hint in reply.error.hint, (reply.answer, reply.error)
    assert reply.calls == [] and reply.proposals == []


@pytest.mark.parametrize(
    "question",
    [
        "should I stop db?",
        "is it safe to stop db?",
        "what happens if I stop db",
        "should db be stopped",
        "does db need a restart",
        "could we get db restarted",
        "soll ich db stoppen?",
        "ist es gefährlich db zu stoppen",
        "dois-je arrêter db ?",
        "est-il prudent d'arrêter db",
        "debería parar db?",
        "es seguro parar db?",
    ],
)
async def test_advice_is_not_given_but_facts_are(question: str) -> None:
    reply = await ask(question)

    assert "db is running (healthy) on nas." in reply.answer and judgement.FACTS in reply.notes, reply.notes
    assert reply.proposals == []


@pytest.mark.parametrize("order", ["scale ghost to 3", "stop ghost", 'remove "ghost"', "skaliere ghost auf 3"])
async def test_a_name_is_no_typo_of_a_word_for_a_host(order: str) -> None:
    reply = await ask(order)

    assert isinstance(reply.error, NotFound) and "`ghost`" in reply.error.message


@pytest.mark.parametrize(
    ("question", "tool", "arguments"),
    [
        ("can I see the logs of db", "get_container_logs", {"name": "db"}),
        ("do we have anything stopped", "list_containers", {"all": True}),
        ("logs of db in the last 2 hours", "get_container_logs", {"name": "db", "since": "2h"}),
        ("how much memory does db use", "get_container_stats", {"name": "db"}),
        ("how much memory does postgres use", "get_container_stats", {"name": "db"}),
        ("what about grafana", "get_container_info", {"name": "grafana"}),
        ("shwo logs of db", "get_container_logs", {"name": "db"}),
        ("open ports on nas", "list_containers", {}),
        ("who is hogging the cpu on gpu", "get_container_stats", {}),
        ("which containers mount the certs volume", "list_volumes", {}),
        ("what is listening on 8888", "list_containers", {"all": True}),
        ("is there a newer grafana out", "list_updates", {"name": "grafana"}),
        ("which host has at least 8 GB of memory free", "get_host_resources", {}),
        ("sum of the image sizes on nas", "list_images", {}),
        ("backup logs", "get_container_logs", {"name": "backup"}),
        ("when was grafana created 3 days ago or later?", "get_container_info", {"name": "grafana"}),
    ],
)
async def test_correct_readings_stay_correct(question: str, tool: str, arguments: dict[str, Any]) -> None:
    reply = await ask(question)

    made = calls(reply)[tool]
    assert {name: made.get(name) for name in arguments} == arguments


async def test_a_temperature_without_a_sensor_is_reported_as_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = ACTS["get_host_resources"]
    monkeypatch.setitem(
        ACTS, "get_host_resources", lambda *given, **named: {**measured(*given, **named), "temperatures": []}
    )

    reply = await ask("how hot is the nas")

    assert "temperature of nas is not known" in reply.answer


@pytest.mark.parametrize("question", ["unpause db", "is there a newer version of grafana?"])
async def test_a_model_that_says_that_it_cannot_help_has_answered(
    question: str, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", model_server.url)
    monkeypatch.setenv("ANVYL_DRIVE", "tools")
    words = "There is no tool for that. On the machine itself: `docker unpause db`."
    model_server.replies += [says(words)]

    reply = await ask(question, offline=False)

    assert words in reply.answer and reply.mode == "model"
    assert reply.calls == [] and reply.exit_code == 0
