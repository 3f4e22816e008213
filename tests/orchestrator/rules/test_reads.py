"""Free-form questions without a model: reads by best score, commands only if every word is understood."""

from __future__ import annotations

from typing import Any

import pytest

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.core.errors import Conflict, NotUnderstood, UnknownHost
from anvyl_mcp.core.settings import load
from anvyl_mcp.evaluation.acts.world import World
from anvyl_mcp.evaluation.simulation import Simulation
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.reply import Reply
from tests.orchestrator.rules.test_rules import CHANGING, DENYING

Fields = dict[str, Any]


async def ask(question: str, *, yes: bool = True) -> tuple[Reply, Simulation]:
    """Ask the rules on the simulated fleet of `anvyl eval`, with one decision for all changes."""
    simulation = Simulation(World.patched({}), load_catalogue(load().cache_dir))

    async def decide(proposal: Proposal) -> bool | None:
        return yes

    reply = await Assistant(simulation.fleet, load()).ask(Question(question), decide=decide, offline=True)
    await simulation.fleet.aclose()
    return reply, simulation


@pytest.mark.parametrize(
    ("question", "tool", "hosts", "arguments"),
    [
        ("gimme whatever sits idle on web1, all of the stopped containers", "list_containers", {"web1"}, {"all": True}),
        ("pls check what grafana has been complaining about", "get_container_logs", {"nas"}, {"name": "grafana"}),
        ("is the database on nas eating lots of memory", "get_container_stats", {"nas"}, {"name": "db"}),
        ("which distro is installed on the prod machines", "get_host_info", {"web1", "web2"}, {}),
        ("anything with the label team=ops out there?", "list_containers", None, {"label": "team=ops"}),
        ("whats hogging the gpu box, top processes pls", "list_processes", {"gpu"}, {}),
        ("how much space would I get back on nas if I cleaned up docker", "get_disk_usage", {"nas"}, {}),
        ("the last 5 log lines of api, web1 please", "get_container_logs", {"web1"}, {"name": "api", "tail": 5}),
        ("docker system df gpu", "get_disk_usage", {"gpu"}, {}),
        ("what hapened on web2 recently", "list_history", {"web2"}, {}),
    ],
)
async def test_a_question_goes_to_the_tool_with_the_best_score(
    question: str, tool: str, hosts: set[str] | None, arguments: Fields
) -> None:
    reply, _ = await ask(question)

    calls = [call for call in reply.calls if call.tool == tool]
    assert calls, [call.tool for call in reply.calls]
    assert hosts is None or {call.host for call in calls} == hosts
    assert all(arguments.items() <= call.arguments.items() for call in calls)
    assert not reply.proposals


async def test_the_answer_shows_how_the_question_was_read() -> None:
    guessed, _ = await ask("pls check what grafana has been complaining about on nas")
    phrase, _ = await ask("show logs of grafana")

    assert any(note.startswith("read as: show logs of grafana on nas") for note in guessed.notes)
    assert phrase.notes == []


async def test_a_question_about_two_states_is_answered_for_both() -> None:
    reply, _ = await ask("whats up on the nas box, anything stopped?")

    assert reply.answer == "6 containers (5 running, 1 exited) on nas."


async def test_a_question_about_problems_shows_the_logs_of_unhealthy_containers() -> None:
    reply, _ = await ask("its 2am and something on web2 is broken, what is it")

    assert {(call.tool, call.arguments.get("name")) for call in reply.calls} == {
        ("list_containers", "api"),
        ("get_container_logs", "api"),
    }
    assert "DATABASE_URL" in reply.answer


async def test_the_row_of_the_named_object_is_reported() -> None:
    reply, _ = await ask("does something on web1 still need the uploads volume")

    assert "uploads on web1" in reply.answer and "api" in reply.answer


@pytest.mark.parametrize(
    ("order", "done"),
    [
        (
            "jupyter on gpu is not needed any more: stop it first, then remove the container",
            [("gpu", "stop_container", "jupyter"), ("gpu", "remove_container", "jupyter")],
        ),
        (
            "on gpu get rid of both containers trainer and old-trainer, and after that the image lab/trainer:5",
            [
                ("gpu", "remove_container", "old-trainer"),
                ("gpu", "remove_container", "trainer"),
                ("gpu", "remove_image", "lab/trainer:5"),
            ],
        ),
        (
            "make a new network called monitoring on the nas and hook grafana up to it",
            [("nas", "create_network", "monitoring"), ("nas", "connect_network", "monitoring")],
        ),
        (
            "download nginx:1.28 on web1 and web2 already, I will switch over tonight",
            [("web1", "pull_image", "nginx:1.28"), ("web2", "pull_image", "nginx:1.28")],
        ),
        ("spin up a redis:7.2 on web2, name it sessions, no ports needed", [("web2", "create_container", "redis:7.2")]),
        ("turn off ollama please, it's getting hot in here", [("gpu", "stop_container", "ollama")]),
        ("I fixed the password, kick off the backup again", [("nas", "start_container", "backup")]),
        ("shut down db on nas but give it 60 seconds", [("nas", "stop_container", "db")]),
    ],
)
async def test_commands_are_executed_in_the_given_order(order: str, done: list[tuple[str, str, str]]) -> None:
    reply, simulation = await ask(order)

    made = [
        (one.host, one.tool, one.arguments.get("image") or one.arguments.get("network") or one.arguments.get("name"))
        for one in simulation.done
    ]
    assert sorted(made) == sorted(done) and made[-1][1] == done[-1][1], reply.answer


@pytest.mark.parametrize(
    "said",
    [
        "stop jupyter tomorrow",
        "stop jupyter in ten minutes",
        "stop jupyter for 10 minutes",
        "restart grafana after midnight",
        "when jupyter is idle, stop it",
        "once the backup is done stop db on nas",
        "as soon as jupyter finishes, remove it",
        "restart grafana after backup has finished",
        "stop ollama while jupyter is running",
        "should grafana hang, restart it",
        "assuming nobody uses it, stop jupyter",
        "stop jupyter provided that it is idle",
        "stop whichever of jupyter and ollama is idle",
        "every night restart grafana",
        "nobody should stop jupyter",
        "hands off jupyter, stop nothing",
        "stop ollama; jupyter must keep running",
        "stop jupyter, just kidding",
        "stop jupyter. wait, forget it",
        "stop jupyter, sorry, ollama",
        "stop jupyter, scrap that, restart it",
        "cancel stop jupyter",
        "maybe stop jupyter",
        "we might stop jupyter",
        "jupyter should have been stopped",
        "my boss said stop jupyter",
        "bob says: stop jupyter",
        "the readme says: remove trainer",
        "they want you to stop jupyter",
        "he will stop jupyter",
        "translate stop jupyter into german",
        "for example: stop jupyter",
        "question: stop jupyter?",
        "restart grafana?",
        "can we remove old-trainer",
        "can anybody stop jupyter",
        "notify bob and stop jupyter",
        "simulate stop jupyter",
        "stop one cache",
        "stop two of the containers on gpu",
        "stop the oldest container on gpu",
        "stop cache on nas and web1 and web",
        "ollama runs, jupyter hangs, restart it",
    ],
)
async def test_unread_words_prevent_a_command_from_being_proposed(said: str) -> None:
    """Times, conditions, exceptions, reported speech, second thoughts: such words cannot all be listed."""
    reply, simulation = await ask(said)

    assert not reply.proposals and not simulation.done, (said, simulation.done)


@pytest.mark.parametrize(
    ("order", "done"),
    [
        ("stop ollama because jupyter needs the gpu", [("gpu", "ollama")]),
        ("stop ollama so jupyter has room", [("gpu", "ollama")]),
        ("keep jupyter, remove trainer", [("gpu", "trainer")]),
        ("stop everything on gpu please, it is too hot", [("gpu", "jupyter"), ("gpu", "ollama")]),
        ("memory is tight on web2 so stop api there", [("web2", "api")]),
        ("old-backups on nas is empty, delete the volume", [("nas", "old-backups")]),
        ("grafana won't load, restart it", [("nas", "grafana")]),
        ("switch off the jupyter notebook on gpu", [("gpu", "jupyter")]),
        ("take jupyter down for today", [("gpu", "jupyter")]),
    ],
)
async def test_harmless_remarks_do_not_change_a_command(order: str, done: list[tuple[str, str]]) -> None:
    reply, simulation = await ask(order)

    assert sorted((one.host, str(one.arguments["name"])) for one in simulation.done) == done, reply.answer


@pytest.mark.parametrize(
    "order",
    [
        "get rid of the postgres one",  # the text does not contain `db`
        "clean the kitchen and remove the dishes",
        "make me a sandwich",
        "stop jupyter and then frobnicate ollama please",
    ],
)
async def test_a_partly_understood_command_is_not_executed(order: str) -> None:
    reply, simulation = await ask(order)

    assert not reply.proposals and not simulation.done, reply.answer


@pytest.mark.parametrize(
    ("question", "error", "says"),
    [
        ("one of the trainer containers on gpu can be deleted, do that for me", Conflict, "old-trainer"),
        ("turn off web on web3 please, thanks", UnknownHost, "web3"),
        ("did anything crash on web3", UnknownHost, "web3"),
        ("send me an email every monday with what is down", NotUnderstood, "no tool"),
    ],
)
async def test_refusals_give_the_reason(question: str, error: type[Exception], says: str) -> None:
    reply, simulation = await ask(question)

    assert isinstance(reply.error, error) and says in str(reply.error)
    assert not simulation.done and not reply.proposals


@pytest.mark.parametrize("frame", DENYING)
async def test_words_that_change_a_commands_meaning_prevent_it_from_being_proposed(frame: str) -> None:
    for phrase in CHANGING:
        reply, simulation = await ask(frame.format(phrase.replace("container nginx", "nginx")))
        assert not reply.proposals and not simulation.done, frame.format(phrase)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("what is the chubbiest image on gpu?", "lab/trainer:5 on gpu is the largest"),
        ("which one is the heaviest image?", "is the largest"),
        ("what is bound to port 11434?", "ollama"),
        ("is anything listening on port 11434", "ollama"),
        ("what is eating the memory on the gpu box?", "ollama on gpu uses the most memory"),
        ("cache or db, which of the two needs more memory?", "db on nas uses the most memory: 512 MiB; then cache"),
        ("which ones don't run on web1?", "1 stopped container: worker on web1."),
        ("welche container laufen auf web1 gerade nicht?", "1 stopped container: worker on web1."),
        ("quels conteneurs ne tournent pas sur web1 ?", "1 stopped container: worker on web1."),
        ("¿qué contenedores no están corriendo en web1?", "1 stopped container: worker on web1."),
        ("which containers are up on web1 and which are not?", "4 containers (3 running, 1 exited) on web1."),
    ],
)
async def test_an_everyday_question_is_worked_out(question: str, answer: str) -> None:
    reply, _ = await ask(question)

    assert answer in reply.answer


@pytest.mark.parametrize("question", ["show logs of hello", "logs hello", "show hello"])
async def test_a_container_may_be_called_like_an_ordinary_word(question: str) -> None:
    world = World.patched({"containers": {"nas/hello": {"image": "busybox", "logs": ["hi there"]}}})
    simulation = Simulation(world, load_catalogue(load().cache_dir))

    reply = await Assistant(simulation.fleet, load()).ask(Question(question), offline=True)

    await simulation.fleet.aclose()
    assert {(call.host, call.arguments.get("name")) for call in reply.calls} == {("nas", "hello")}
