"""The name of a stack, given where a container is expected, means the whole application: gateway and commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.gateway.test_gateway import Person, at_hand, hosts, words
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import ServingNode, anvyl

SAYS = "echo {0} started; trap exit TERM; sleep 600 & wait"


def run_stack(engine: RealEngine, stack: str, *services: str) -> None:
    """Containers with the labels of Compose, and with names of their own."""
    for service in services:
        labels = {"com.docker.compose.project": stack, "com.docker.compose.service": service}
        engine.run(service, ["sh", "-c", SAYS.format(service)], labels=labels)


def states(engine: RealEngine, *names: str) -> set[str | None]:
    return {engine.state(name) for name in names}


async def test_through_the_gateway_a_container_tool_gets_to_the_whole_stack(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stack(second_engine, "media", "sonarr", "radarr")
    engine.run("web")
    person = Person()

    async with at_hand() as client:
        stopped = await client.call_tool("stop_container", {"name": "media", "timeout": 5})
        assert states(second_engine, "sonarr", "radarr") == {"exited"}
        started = await client.call_tool("start_container", {"name": "media"})
        assert states(second_engine, "sonarr", "radarr") == {"running"}
        logs = await client.call_tool("get_container_logs", {"name": "media", "grep": "started"})
        usage = await client.call_tool("get_container_stats", {"name": "media"})
        info = await client.call_tool("get_container_info", {"name": "media", "host": "second"})
        found = await client.call_tool("list_containers", {"name": "media"})
        inside = await client.call_tool("exec_in_container", {"name": "media", "command": "id"})
        unasked = await client.call_tool("remove_container", {"name": "media", "force": True})
        missing = await client.call_tool("stop_container", {"name": "media", "host": "first"})
    async with at_hand(person=person) as client:
        removed = await client.call_tool("remove_container", {"name": "media"})
    monkeypatch.setenv("ANVYL_TOOLSETS", "containers")
    run_stack(engine, "shop", "db")
    async with at_hand() as client:
        turned_off = await client.call_tool("stop_container", {"name": "shop"})

    assert words(stopped).startswith("`media` is a stack of several containers: this is the answer of stop_stack\n")
    assert stopped.structured_content and stopped.structured_content["tool"] == "stop_stack"
    assert hosts(started)["second"]["result"]["status"] == "running"
    assert {"radarr | radarr started", "sonarr | sonarr started"} <= set(hosts(logs)["second"]["result"]["lines"])
    assert {row["name"] for row in hosts(usage)["second"]["result"]["containers"]} == {"radarr", "sonarr"}
    assert [row["service"] for row in hosts(info)["second"]["result"]["services"]] == ["radarr", "sonarr"]
    assert {row["name"] for row in hosts(found)["second"]["result"]["containers"]} == {"radarr", "sonarr"}
    assert inside.is_error and "Name one of its containers: radarr and sonarr" in words(inside)
    # Its client showed the removal of one container; only a person who reads what is removed may say yes.
    assert unasked.is_error and "call remove_stack with the same name" in words(unasked).lower()
    assert missing.is_error and "there is no container `media`" in words(missing)
    assert person.shown and person.shown[0].startswith("Remove stack media on second?")
    assert not removed.is_error and states(second_engine, "sonarr", "radarr") == {None}
    assert turned_off.is_error and "`stop_stack` is turned off in this gateway" in words(turned_off)
    assert engine.state("db") == "running"


def test_commands_mean_the_stack_also_while_another_host_is_silent(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode, tmp_path: Path
) -> None:
    run_stack(second_engine, "media", "sonarr", "radarr")
    with (tmp_path / "hosts.toml").open("a") as file:
        file.write('[hosts.gone]\nurl = "http://127.0.0.1:1"\n')

    unsure = anvyl("restart", "media")
    assert unsure.code == 5 and "stack `media` is on second, but gone could not be asked" in unsure.err
    assert "--host second" in unsure.err
    assert anvyl("restart", "media", "--host", "second").code == 0
    shown = anvyl("logs", "media")
    assert "radarr started" in shown.out and "sonarr started" in shown.out
    usage = anvyl("stats", "media", "--json").json
    assert [one["tool"] for one in usage["calls"]] == ["get_stack_stats"]
    assert {row["name"] for row in usage["hosts"]["second"]["result"]["containers"]} == {"radarr", "sonarr"}
    assert "radarr" in anvyl("info", "media").out
    assert anvyl("stop", "radarr", "--host", "second").code == 0
    second_engine.run("plex")
    listed = [line.split("\t")[1] for line in anvyl("ps", "--all", "--host", "second").out.splitlines()[1:]]
    assert listed == ["sonarr", "radarr", "plex"], "one that is stopped stays with its stack"
