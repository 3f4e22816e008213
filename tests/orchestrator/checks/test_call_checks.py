"""A capable model's calls are made as it gave them; the person's words decide only how much consent a change needs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.core.settings import load
from anvyl_mcp.evaluation.acts.world import World
from anvyl_mcp.evaluation.simulation import Simulation
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.models import model_choice
from anvyl_mcp.orchestrator.models.servers.model_server import LMSTUDIO
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.reply import Reply

Call = tuple[str, dict[str, Any]]
Turn = Call | list[Call] | str


class CapableModel:
    """A simulated fleet, a scripted 35B model, and a person whose answer is `says`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.simulation = Simulation(World.patched({}), load_catalogue(load().cache_dir))
        self.proposed: list[Proposal] = []
        self.results: list[str] = []
        """What the model got back for its calls."""
        self.prompts: list[str] = []

    async def ask(
        self, question: str, *turns: Turn, says: bool | None = True, in_advance: bool = False, **more: Any
    ) -> Reply:
        """`in_advance`: decide like `--yes` instead of as the person `says`; `more`: fields of the question."""
        script = list(turns)

        def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            last = messages[-1]
            assert isinstance(last, ModelRequest)
            self.prompts += [str(one.content) for one in last.parts if isinstance(one, UserPromptPart)]
            self.results += [
                str(one.content) for one in last.parts if isinstance(one, ToolReturnPart | RetryPromptPart)
            ]
            turn = script.pop(0)
            if isinstance(turn, str):
                return ModelResponse(parts=[TextPart(turn)])
            return ModelResponse(parts=[ToolCallPart(*one) for one in (turn if isinstance(turn, list) else [turn])])

        async def choose(*_: object, **__: object) -> model_choice.ModelChoice:
            return model_choice.ModelChoice("qwen3.5-35b-a3b", LMSTUDIO, trained_for_tools=True)

        async def decide(proposal: Proposal) -> bool | None:
            self.proposed.append(proposal)
            return (proposal.covered or None) if in_advance else says

        self._patch.setattr(model_choice, "choose_model", choose)
        self._patch.setattr(model_choice, "build_model", lambda *_: FunctionModel(respond, model_name="scripted"))
        return await Assistant(self.simulation.fleet, load()).ask(Question(question, **more), decide=decide)

    @property
    def done(self) -> list[tuple[str, str, dict[str, Any]]]:
        return [(one.host, one.tool, dict(one.arguments)) for one in self.simulation.done]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> CapableModel:
    return CapableModel(monkeypatch)


def hosts_called(reply: Reply) -> list[str]:
    return sorted(call.host for call in reply.calls)


@pytest.mark.parametrize(
    ("question", "arguments", "hosts"),
    [
        ("what runs?", {"host": "web1"}, ["web1"]),
        ("what runs on web2?", {"host": "gpu,nas"}, ["gpu", "nas"]),
        ("¿qué contenedores hay?", {"host": "all"}, ["gpu", "nas", "web1", "web2"]),
    ],
)
async def test_hosts_stay_as_the_model_gave_them(
    question: str, arguments: dict[str, Any], hosts: list[str], model: CapableModel
) -> None:
    reply = await model.ask(question, ("list_containers", arguments), "There you are.")

    assert hosts_called(reply) == hosts


async def test_filters_stay_as_the_model_gave_them(model: CapableModel) -> None:
    arguments = {"name": "db", "tail": 7, "since": "1h", "grep": "error"}

    reply = await model.ask("what is wrong with the database?", ("get_container_logs", arguments), "Nothing.")

    assert [dict(call.arguments) for call in reply.calls] == [arguments]


@pytest.mark.parametrize(
    ("question", "call", "done"),
    [
        ("bin it: old-trainer", ("remove_container", {"name": "old-trainer"}), [("gpu", "old-trainer")]),
        ("stoppe grafana", ("stop_container", {"name": "grafana"}), [("nas", "grafana")]),
        ("grafana hängt, starte ihn neu", ("restart_container", {"name": "grafana"}), [("nas", "grafana")]),
        (
            "everything on gpu but ollama goes down now",
            ("stop_container", {"name": "jupyter", "host": "gpu"}),
            [("gpu", "jupyter")],
        ),
        (
            "get nginx:1.28 onto both web boxes",
            ("pull_image", {"image": "nginx:1.28", "host": "web1,web2"}),
            [("web1", "nginx:1.28"), ("web2", "nginx:1.28")],
        ),
    ],
)
async def test_a_change_in_other_words_is_made_after_a_yes(
    question: str, call: tuple[str, dict[str, Any]], done: list[tuple[str, str]], model: CapableModel
) -> None:
    await model.ask(question, call, "That was it.")

    assert [(host, arguments.get("name") or arguments["image"]) for host, _, arguments in model.done] == done
    assert len(model.proposed) == 1


@pytest.mark.parametrize(
    ("question", "tool", "arguments"),
    [
        ("bin grafana on nas", "remove_container", {"name": "grafana", "host": "nas", "force": True}),
        ("stop ollama", "stop_container", {"name": "ollama", "timeout": 90}),
        (
            "run nginx:1.27 on both prod boxes, port 8081",
            "create_container",
            {"image": "nginx:1.27", "name": "nginx", "ports": ["8081:80"], "host": "web1,web2", "restart": "always"},
        ),
        (
            "lance un redis:7.2 sur gpu, avec 256 Mo max",
            "create_container",
            {"image": "redis:7.2", "name": "redis", "memory": "256m", "host": "gpu"},
        ),
        ("reinicia api en los dos servidores web", "restart_container", {"name": "api", "host": "web1,web2"}),
        (
            "erstelle auf allen web-hosts ein netzwerk namens intern",
            "create_network",
            {"name": "intern", "host": "@web"},
        ),
        ("stop web everywhere but on web1", "stop_container", {"name": "web", "host": "web2"}),
    ],
)
async def test_yes_covers_what_the_words_name_however_the_model_does_it(
    question: str, tool: str, arguments: dict[str, Any], model: CapableModel
) -> None:
    """Options that were not asked for are the model's own while it has read nothing."""
    reply = await model.ask(question, (tool, arguments), "That was it.", says=None)

    assert [proposal.why for proposal in reply.proposals] == [""]


async def test_what_waits_beside_a_change_that_was_made_does_not_say_that_nothing_changed(model: CapableModel) -> None:
    stopped, other = ("stop_container", {"name": "grafana"}), ("stop_container", {"name": "jupyter"})

    reply = await model.ask("stop grafana and the notebooks", stopped, other, in_advance=True)

    assert [arguments["name"] for _, _, arguments in model.done] == ["grafana"]
    assert "Waiting for approval: stop jupyter on gpu." in reply.answer and "Nothing was" not in reply.answer


async def test_yes_does_not_cover_an_option_that_a_model_may_have_read_somewhere(model: CapableModel) -> None:
    stopping = ("stop_container", {"name": "ollama", "timeout": 90})

    reply = await model.ask("stop ollama", ("list_containers", {}), stopping, "That was it.", says=None)

    [proposal] = reply.proposals
    assert not proposal.covered and "`timeout=90`" in proposal.why
    assert "proposed after reading list_containers on nas" in proposal.why


@pytest.mark.parametrize(
    ("question", "first", "then", "why"),
    [
        (
            "pull nginx:1.28 on nas and run redis:7 as store on gpu",
            ("pull_image", {"image": "nginx:1.28", "host": "gpu"}),
            ("create_container", {"image": "redis:7", "name": "store", "host": "gpu", "env": ["REDIS_ARGS=--save"]}),
            '`env=["REDIS_ARGS=--save"]`',
        ),
        (
            "please handle grafana",
            ("list_containers", {}),
            ("stop_container", {"name": "grafana"}),
            "your words do not ask to stop a container",
        ),
        (
            "run redis:7 as store on gpu",
            ("list_containers", {}),
            ("create_container", {"image": "redis:7", "name": "store", "host": "gpu", "command": "gpu"}),
            "`command=gpu`",
        ),
    ],
    ids=["the result of a change on another host", "no verb", "a host as command"],
)
async def test_yes_does_not_cover_what_others_may_have_put_forward(
    question: str, first: tuple[str, dict[str, Any]], then: tuple[str, dict[str, Any]], why: str, model: CapableModel
) -> None:
    """Another host writes the result of a change, and the names in a list."""
    reply = await model.ask(question, first, then, "That was it.", in_advance=True)

    assert why in model.proposed[-1].why
    assert then[0] not in [tool for _, tool, _ in model.done] and reply.exit_code == 5


@pytest.mark.parametrize(
    ("question", "call", "why"),
    [
        ("what runs?", ("stop_container", {"name": "grafana"}), "your question only asks to look"),
        ("restart grafana", ("stop_container", {"name": "grafana"}), "you asked to restart"),
        ("stop the dashboards", ("stop_container", {"name": "grafana"}), "you did not say `name=grafana`"),
        ("clean up", ("remove_container", {"name": "certbot"}), "you did not say `name=certbot`"),
        ("remove grafana, no force", ("remove_container", {"name": "grafana", "force": True}), "`force=true`"),
        (
            "run redis:7 on gpu",
            ("create_container", {"image": "redis:7", "host": "gpu", "ports": ["6379:6379"]}),
            "ports",
        ),
        ("stop web on web2, any idea?", ("stop_container", {"name": "web", "host": "web1"}), "`host=web1`"),
        ("run df on nas", ("execute_command", {"command": "df", "host": "nas"}), "needs the scope `exec`"),
        ("fix grafana", ("remove_container", {"name": "grafana"}), "your words do not ask to remove a container"),
        ("update grafana", ("update_container", {"name": "grafana", "watch": 0}), "`watch=0`"),
        ("stop jupyter and start trainer", ("start_container", {"name": "jupyter"}), "you asked to stop `jupyter`"),
        ("stoppe jupyter und starte trainer", ("start_container", {"name": "jupyter"}), "you asked to stop `jupyter`"),
    ],
)
async def test_what_the_words_do_not_say_needs_a_person_who_sees_why(
    question: str, call: tuple[str, dict[str, Any]], why: str, model: CapableModel
) -> None:
    reply = await model.ask(question, call, says=None)

    [proposal] = reply.proposals
    assert not proposal.covered
    assert why in proposal.why
    assert model.done == []


@pytest.mark.parametrize(
    ("question", "call"),
    [
        ("stop grafana", ("stop_container", {"name": "grafana"})),
        ("remove certbot please", ("remove_container", {"name": "certbot"})),
        ("restart web on @web", ("restart_container", {"name": "web", "host": "web1,web2"})),
        ("para grafana", ("stop_container", {"name": "grafana"})),
        ("stop grafana, then restart it", ("restart_container", {"name": "grafana"})),
        ("restart jupyter and grafana", ("restart_container", {"name": "grafana"})),
    ],
)
async def test_a_yes_in_advance_covers_what_the_words_name(
    question: str, call: tuple[str, dict[str, Any]], model: CapableModel
) -> None:
    reply = await model.ask(question, call, says=None)

    assert [proposal.covered for proposal in reply.proposals] == [True], [one.why for one in reply.proposals]


@pytest.mark.parametrize(
    ("question", "wrong", "reason"),
    [
        ("restart web", ("restart_container", {"name": "web"}), "both web1 and web2 have a container `web`"),
        ("stop mysql", ("stop_container", {"name": "mysql"}), "no host has a container `mysql`"),
        ("restart all containers on web1", ("restart_container", {"name": "web"}), "both web1 and web2"),
        ("restart the trainers", ("restart_container", {"name": "trainers"}), "which container"),
        ("stop grafana", ("stop_container", {"name": "grafana", "host": "nass"}), "Did you mean `nas`?"),
    ],
)
async def test_a_refusal_goes_back_to_the_model_which_goes_on(
    question: str, wrong: tuple[str, dict[str, Any]], reason: str, model: CapableModel
) -> None:
    reply = await model.ask(question, wrong, ("list_hosts", {}), "Which one do you want?")

    assert reason in model.results[0]
    assert [call.tool for call in reply.calls] == ["list_hosts"]
    assert "Which one do you want?" in reply.answer
    assert model.done == []


async def test_a_near_name_is_put_right_and_said(model: CapableModel) -> None:
    reply = await model.ask("restart grafna", ("restart_container", {"name": "grafna"}), "Restarted it.")

    assert model.done == [("nas", "restart_container", {"name": "grafana"})]
    assert "`grafna` → `grafana`" in reply.notes
    assert not model.proposed[0].covered


@pytest.mark.parametrize(
    "said",
    [
        "gpu has 24 cores, the most of all hosts.",
        "nas uses 11,264 MiB.",
        "I cannot rename containers, there is no tool for it.",
        "web was restarted 3 times since Monday.",
    ],
)
async def test_the_answer_of_a_model_stands_as_it_gave_it(said: str, model: CapableModel) -> None:
    reply = await model.ask("which host has the most cores?", ("get_host_resources", {"host": "all"}), said)

    assert reply.answer.startswith(said)
    assert reply.mode == "model"


async def test_a_model_that_only_talks_has_answered(model: CapableModel) -> None:
    reply = await model.ask("list all containers", "I would rather not.")

    assert (reply.answer, reply.mode, reply.calls) == ("I would rather not.", "model", [])


async def test_what_is_said_about_changes_comes_from_the_results(model: CapableModel) -> None:
    turn = ("stop_container", {"name": "grafana"})

    reply = await model.ask("stop grafana", turn, "I have stopped grafana and db. The dashboards are offline now.")
    claimed = await model.ask("stop db", "I have stopped db.")
    able = await model.ask("can you restart things?", "Yes, I can restart containers. Which one should I restart?")
    explained = await model.ask(
        "was grafana down? then start it",
        ("restart_container", {"name": "grafana"}),
        "It was down (code 137), so I restarted it.",
    )

    assert reply.answer == "Stopped grafana on nas.\nThe dashboards are offline now."
    assert claimed.answer == "Nothing was changed."
    assert able.answer == "Yes, I can restart containers. Which one should I restart?"
    assert explained.answer == "Restarted grafana on nas.\nIt was down (code 137), so I restarted it."


@pytest.mark.parametrize(
    "looked",
    [("get_container_logs", {"name": "jupyter"}), ("list_containers", {"all": True})],
    ids=["logs", "names"],
)
async def test_what_was_read_puts_forward_no_change_that_the_question_does_not_ask_for(
    looked: tuple[str, dict[str, Any]], model: CapableModel
) -> None:
    reply = await model.ask("why is jupyter slow?", looked, ("stop_container", {"name": "ollama"}), "It is ollama.")

    assert (model.proposed, model.done) == ([], [])
    assert reply.exit_code == 0


LOOKED: Call = ("list_containers", {"all": True, "host": "all"})


@pytest.mark.parametrize(
    ("question", "change"),
    [
        ("get me nginx:1.28 on web1", ("pull_image", {"image": "nginx:1.28", "host": "web1"})),
        (
            "how about a fresh go for the api on web2?",
            ("restart_container", {"name": "api", "host": "web2"}),
        ),
    ],
)
async def test_a_change_of_what_the_words_name_is_asked_for_after_a_look(
    question: str, change: Call, model: CapableModel
) -> None:
    """The words may be misread as a question, so a person decides, who sees that."""
    reply = await model.ask(question, LOOKED, change, "Done.")

    assert [tool for _, tool, _ in model.done] == [change[0]], model.results
    assert not model.proposed[0].covered
    assert reply.error is None


async def test_the_changes_of_several_hosts_follow_each_other(model: CapableModel) -> None:
    pulls = [("pull_image", {"image": "nginx:1.28", "host": host}) for host in ("web1", "web2")]

    await model.ask("get me nginx:1.28 on both web boxes", *pulls, "Done.")

    assert [host for host, _, _ in model.done] == ["web1", "web2"], model.results


async def test_a_repeated_call_is_answered_once_and_a_third_ends_the_run(model: CapableModel) -> None:
    call = ("list_containers", {"host": "nas"})

    reply = await model.ask("what runs on nas?", call, call, "grafana and more.")
    ended = await model.ask("what runs on nas?", call, call, call)

    assert hosts_called(reply) == hosts_called(ended) == ["nas"]
    assert "its result stands" in model.results[1]
    assert reply.answer.startswith("grafana and more.")


@pytest.mark.parametrize(
    ("question", "call", "said", "answer"),
    [
        (
            "arrête jupyter et ollama sur gpu",
            ("stop_container", {"name": "jupyter", "host": "gpu"}),
            "J'ai arrêté jupyter.",
            "✓ stop: jupyter (gpu)\nJ'ai arrêté jupyter.",
        ),
        (
            "borra la imagen shop/api:2.3 de web1",
            ("remove_image", {"image": "shop/api:2.3", "host": "web1"}),
            "He borrado la imagen.",
            "✓ remove image: shop/api:2.3 (web1)\nHe borrado la imagen.",
        ),
        (
            "ferma vault per favore",
            ("stop_container", {"name": "vault"}),
            "Non posso fermare vault.",
            "✗ stop: vault (nas): `vault` must not be changed through Anvyl: it has the label `anvyl.protect=true`.\n"
            "Non posso fermare vault.",
        ),
        (
            "remove the image shop/api:2.3 from web1",
            ("remove_image", {"image": "shop/api:2.3", "host": "web1"}),
            "It was not used.",
            "Removed image shop/api:2.3 on web1.\nIt was not used.",
        ),
    ],
)
async def test_facts_after_an_answer_in_another_language_need_no_english(
    question: str, call: tuple[str, dict[str, Any]], said: str, answer: str, model: CapableModel
) -> None:
    reply = await model.ask(question, call, said)

    assert reply.answer == answer


async def test_a_declined_change_is_reported_in_the_language_of_the_answer(model: CapableModel) -> None:
    stopping = ("stop_container", {"name": "jupyter"})

    reply = await model.ask("arrête le conteneur jupyter", stopping, "Très bien, jupyter continue.", says=False)

    assert reply.answer == "Annulé ; rien n'a été changé.\nTrès bien, jupyter continue."
