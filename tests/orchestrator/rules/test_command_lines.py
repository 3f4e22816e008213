"""Docker command lines as requests: each option is applied or reported, none is dropped."""

from __future__ import annotations

from typing import Any

import pytest

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.core.settings import load
from anvyl_mcp.evaluation.acts.world import World
from anvyl_mcp.evaluation.simulation import Simulation
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.question import Question
from anvyl_mcp.orchestrator.reply import Reply

Calls = list[tuple[str, dict[str, Any]]]


async def ask(line: str) -> Reply:
    simulation = Simulation(World.patched({}), load_catalogue(load().cache_dir))
    try:
        return await Assistant(simulation.fleet, load()).ask(Question(line), offline=True)
    finally:
        await simulation.fleet.aclose()


def asked_for(reply: Reply) -> Calls:
    """Unique calls that were made or proposed."""
    made = [(call.tool, dict(call.arguments)) for call in reply.calls]
    made += [(one.tool, one.arguments) for one in reply.proposals]
    return [call for index, call in enumerate(made) if call not in made[:index]]


@pytest.mark.parametrize(
    ("line", "calls"),
    [
        ("docker logs db --since 10m", [("get_container_logs", {"name": "db", "since": "10m"})]),
        ("docker logs --since=10m --tail=5 db", [("get_container_logs", {"name": "db", "since": "10m", "tail": 5})]),
        ("docker logs -n 20 db on nas", [("get_container_logs", {"name": "db", "tail": 20})]),
        ("docker logs -n20 db", [("get_container_logs", {"name": "db", "tail": 20})]),
        ("logs db --tail 50", [("get_container_logs", {"name": "db", "tail": 50})]),
        ("show logs of db --tail 50", [("get_container_logs", {"name": "db", "tail": 50})]),
        ("docker ps -a", [("list_containers", {"all": True})]),
        ("docker container ls --all", [("list_containers", {"all": True})]),
        ("docker stop grafana db", [("stop_container", {"name": "grafana"}), ("stop_container", {"name": "db"})]),
        ("sudo docker stop db", [("stop_container", {"name": "db"})]),
        ("docker stop -t 30 db", [("stop_container", {"name": "db", "timeout": 30})]),
        ("docker stop --time=30 db please", [("stop_container", {"name": "db", "timeout": 30})]),
        ("docker kill db", [("stop_container", {"name": "db", "timeout": 0})]),
        ("docker rm -f backup", [("remove_container", {"name": "backup", "force": True})]),
        ("docker exec -it db psql -l", [("exec_in_container", {"name": "db", "command": "psql -l"})]),
        (
            "docker run -d --name x -p 8080:80 -e A=B -m 512m nginx on nas",
            [
                (
                    "create_container",
                    {"name": "x", "ports": ["8080:80"], "env": ["A=B"], "memory": "512m", "image": "nginx"},
                )
            ],
        ),
    ],
)
async def test_a_command_line_makes_the_calls_that_docker_would_make(line: str, calls: Calls) -> None:
    assert asked_for(await ask(line)) == calls


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("docker logs -f db", "`-f`"),
        ("docker logs db --until 5m", "`--until`"),
        ("docker logs --tail all db", "--tail"),
        ("docker ps -q", "`-q`"),
        ("docker stop -s KILL db", "`-s`"),
        ("docker rm -v backup", "`-v`"),
        ("docker run --rm -it busybox sh", "`--rm`"),
        ("docker run --privileged nginx on nas", "`--privileged`"),
        ("docker exec -u root db id", "`-u`"),
        ("docker top db", "`docker top`"),
        ("docker cp db:/x .", "`docker cp`"),
        ("docker unpause db", "`docker unpause`"),
        ("docker compose down", "`docker compose`"),
        ("docker exec -it db bash", "terminal"),
        ("docker exec db", "needs a container and a command"),
        ("docker stop 'db", "quotes"),
        ("list containers --sorted", "`--sorted`"),
        ("show images -v", "`-v`"),
    ],
)
async def test_unsupported_commands_and_options_are_refused_by_name(line: str, named: str) -> None:
    reply = await ask(line)

    assert isinstance(reply.error, NotUnderstood) and reply.exit_code == NotUnderstood.exit_code
    assert named in str(reply.error) and not reply.calls and not reply.proposals
