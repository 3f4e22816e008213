"""Aliases: the user's own words for containers and questions, for rules and models alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.core.errors import ConfigInvalid
from anvyl_mcp.core.settings import load
from anvyl_mcp.evaluation.acts.world import World
from anvyl_mcp.evaluation.simulation import Simulation
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.ask.aliases import expand
from anvyl_mcp.orchestrator.models import model_choice
from anvyl_mcp.orchestrator.models.servers.model_server import OPENAI_COMPATIBLE
from anvyl_mcp.orchestrator.question import Proposal, Question
from tests.support.hosts.nodes import anvyl

ALIASES = {"the dashboards": "grafana on nas", "dashboards db": "db on nas", "web": "api on web1"}
PHRASES = {"movie night": "stop ollama on gpu"}


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("restart the dashboards", "restart grafana on nas"),
        ("restart my dashboards please", "restart grafana on nas please"),
        ("Restart The  Dashboards!", "Restart grafana on nas!"),
        ("restart dashboards on web2", "restart grafana on web2"),
        ("logs of the dashboards db", "logs of db on nas"),
        ("Movie night, please!", "stop ollama on gpu"),
        ("is it movie night yet?", "is it movie night yet?"),
        ("stop web-old and webapp", "stop web-old and webapp"),
        ("run `echo the dashboards` in web", "run `echo the dashboards` in api on web1"),
        ('what does "web" mean', 'what does "web" mean'),
        ("restart grafana", "restart grafana"),
    ],
)
def test_aliases_are_replaced_as_whole_words_once_and_not_in_quotes(typed: str, read: str) -> None:
    settings = replace(load(), aliases=ALIASES, phrases=PHRASES)

    expanded = expand(typed, settings)

    assert expanded.text == read
    assert bool(expanded.notes) == (typed != read)


@pytest.mark.parametrize(
    ("typed", "host", "tool", "name"),
    [
        ("restart the dashboards", "nas", "restart_container", "grafana"),
        ("movie night", "gpu", "stop_container", "ollama"),
    ],
)
async def test_the_rules_expand_aliases(typed: str, host: str, tool: str, name: str) -> None:
    simulation = Simulation(World.patched({}), load_catalogue(load().cache_dir))
    assistant = Assistant(simulation.fleet, replace(load(), aliases=ALIASES, phrases=PHRASES))

    async def yes(proposal: Proposal) -> bool:
        assert proposal.covered
        return True

    reply = await assistant.ask(Question(typed), decide=yes, offline=True)

    assert [(one.host, one.tool, one.arguments["name"]) for one in simulation.done] == [(host, tool, name)]
    assert any(note.startswith("read `") for note in reply.notes)


async def test_a_model_gets_the_expanded_question(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []

    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        parts = [part for message in messages for part in message.parts]
        prompts.extend(str(part.content) for part in parts if isinstance(part, UserPromptPart))
        return ModelResponse(parts=[TextPart("Which one?")])

    async def choose(*_: object, **__: object) -> model_choice.ModelChoice:
        return model_choice.ModelChoice("scripted", OPENAI_COMPATIBLE)

    monkeypatch.setattr(model_choice, "choose_model", choose)
    monkeypatch.setattr(model_choice, "build_model", lambda *_: FunctionModel(respond, model_name="scripted"))
    simulation = Simulation(World.patched({}), load_catalogue(load().cache_dir))
    assistant = Assistant(simulation.fleet, replace(load(), aliases=ALIASES))

    await assistant.ask(Question("how are the dashboards doing?"))

    assert prompts == ["how are grafana on nas doing?"]


def test_aliases_are_added_listed_and_removed_on_the_command_line() -> None:
    added = anvyl("alias", "add", "the photo  app", "immich_server", "--host", "nas")
    anvyl("alias", "add", "movie night", "stop trainer on gpu", "--question")
    listed = json.loads(anvyl("alias", "list", "--json").out)
    anvyl("alias", "add", "movie night", "trainer")
    moved = json.loads(anvyl("alias", "list", "--json").out)
    removed, unknown = anvyl("alias", "remove", "movie night"), anvyl("alias", "remove", "the foto app")

    assert added.code == 0 and "`the photo app` now means `immich_server on nas`" in added.err
    aliases: Mapping[str, str] = {"the photo app": "immich_server on nas"}
    assert listed == {"aliases": aliases, "phrases": {"movie night": "stop trainer on gpu"}, "error": None}
    assert moved == {"aliases": {**aliases, "movie night": "trainer"}, "phrases": {}, "error": None}
    assert (removed.code, load().aliases) == (0, aliases)
    assert unknown.code == 1 and "did you mean `the photo app`?" in unknown.err


@pytest.mark.parametrize(
    "arguments",
    [["--", "123", "web"], ["x", " "], ["x", "stop web", "--question", "--host", "nas"], ["x" * 300, "web"]],
)
def test_invalid_aliases_are_refused(arguments: list[str]) -> None:
    done = anvyl("alias", "add", *arguments)

    assert done.code == 2 and done.err.startswith("error: ")
    assert load().aliases == {}


@pytest.mark.parametrize("content", ["aliases = 1", "[aliases]\nx = 1", '[phrases]\nx = " "'])
def test_an_invalid_alias_table_is_reported(content: str) -> None:
    file = load().config_dir / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    Path(file).chmod(0o600)

    with pytest.raises(ConfigInvalid, match="has an invalid entry"):
        load()
