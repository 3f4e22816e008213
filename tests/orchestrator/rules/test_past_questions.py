"""Questions about the past, updates and replicas, in four languages: which records are asked, and what is refused."""

from __future__ import annotations

import pytest

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.core.settings import load
from anvyl_mcp.evaluation.acts.world import World
from anvyl_mcp.evaluation.simulation import Simulation
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.question import Question
from anvyl_mcp.orchestrator.reply import Reply


async def ask(question: str) -> Reply:
    """Ask the rules on the simulated fleet."""
    simulation = Simulation(World.patched({}), load_catalogue(load().cache_dir))
    try:
        return await Assistant(simulation.fleet, load()).ask(Question(question), offline=True)
    finally:
        await simulation.fleet.aclose()


YESTERDAY = {"since": "yesterday", "until": "yesterday"}


@pytest.mark.parametrize(
    ("question", "tool", "arguments"),
    [
        ("what was the peak memory of db this week", "get_usage_history", {"name": "db", "since": "this week"}),
        ("memory of db yesterday", "get_usage_history", {"name": "db", **YESTERDAY}),
        ("wie viel speicher hat db gestern verbraucht", "get_usage_history", {"name": "db", **YESTERDAY}),
        ("combien de mémoire db a utilisé hier", "get_usage_history", {"name": "db", **YESTERDAY}),
        ("cuánta memoria usó db ayer", "get_usage_history", {"name": "db", **YESTERDAY}),
        ("which containers were running yesterday", "get_usage_history", YESTERDAY),
        ("is the disk filling up, and when will it be full", "get_usage_history", {"since": "7d"}),
        ("läuft die platte von nas voll?", "get_usage_history", {"since": "7d"}),
        ("cuándo se llenará el disco", "get_usage_history", {"since": "7d"}),
        ("why did web restart in the last 2 hours", "list_history", {"name": "web", "since": "in the last 2 hours"}),
        ("pourquoi web a redémarré hier", "list_history", {"name": "web", **YESTERDAY}),
        ("wer hat db gestoppt", "list_history", {"name": "db", "since": "30d"}),
        ("who deleted old-web", "list_history", {"name": "old-web"}),
        ("logs of old-web before it was removed", "list_history", {"name": "old-web", "kind": "deaths"}),
        ("was db down yesterday", "list_history", {"name": "db", **YESTERDAY}),
        ("what changed while I was away", "list_history", {"since": "24h", "kind": "changes"}),
        ("qué pasó ayer en web2", "list_history", YESTERDAY),
        ("when did grafana last run", "list_history", {"name": "grafana"}),
        ("logs of worker from before the crash", "list_history", {"name": "worker", "kind": "deaths"}),
        ("errors of api since yesterday", "get_container_logs", {"name": "api"}),
        ("are my images up to date", "list_updates", {}),
        ("was kann aktualisiert werden", "list_updates", {}),
    ],
)
async def test_a_question_about_the_past_is_asked_of_the_records(
    question: str, tool: str, arguments: dict[str, str]
) -> None:
    reply = await ask(question)

    assert {call.tool for call in reply.calls} == {tool}, (reply.error, reply.notes)
    made = reply.calls[0].arguments
    assert {name: made.get(name) for name in arguments} == arguments and "ignored" not in " ".join(reply.notes)


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ("its peak this week", "`its`"),
        ("what was the temperature of nas yesterday", "`temperature` is not recorded"),
        ("scale web to 5", "no host is in a Swarm"),
        ("scale plex to 5", "no host has a service, a container or an image `plex`"),
        ("keep five of these running across the fleet", "anvyl swarm init"),
        ("halte drei kopien von web am laufen", "no host is in a Swarm"),
    ],
)
async def test_what_cannot_be_known_or_kept_is_refused_with_the_reason(question: str, why: str) -> None:
    reply = await ask(question)

    assert reply.exit_code != 0 and why in str(reply.error)
    assert not reply.proposals
