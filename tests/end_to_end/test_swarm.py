"""A Swarm of three paired hosts: formed, used across the fleet, partitioned, and left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from docker.errors import APIError

from anvyl_mcp.core.errors import AnvylError, Conflict
from anvyl_mcp.peers.changes.change_plan import plan_change
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.fleet.targets import resolve_targets
from tests.support.engine.engines import IMAGES
from tests.support.hosts.lab import Lab

DOWN_SECONDS = 40
"""The managers call a silent node down after three missed heartbeats of 5 s; then its tasks start elsewhere."""


@pytest.fixture(scope="module")
def swarm(session_lab: Lab) -> Iterator[Lab]:
    """The lab; its hosts leave their Swarm in the end."""
    session_lab.restore()
    yield session_lab
    for host in session_lab.hosts:
        host.heal()
        leave(host.engine.api)


def leave(api: Any) -> None:
    try:
        api.leave_swarm(force=True)
    except APIError as error:
        assert "not part of a swarm" in str(error)


def on_a_manager(lab: Lab, tool: str, **arguments: Any) -> dict[str, Any]:
    """The result of a call that names no host, as commands make it."""

    async def work(fleet: Fleet) -> dict[str, Any]:
        listing = fleet.tool(tool)
        hosts = await resolve_targets(fleet, listing, arguments)
        assert len(hosts) == 1
        outcome = await fleet.call(hosts[0], tool, arguments)
        assert outcome.error is None, outcome.error
        return outcome.answer.result or {}

    return lab.run(work)


def test_without_a_swarm_the_answer_names_what_is_lost_and_both_ways(swarm: Lab) -> None:
    async def work(fleet: Fleet) -> AnvylError:
        listing = fleet.tool("create_service")
        with pytest.raises(Conflict) as none:
            await resolve_targets(fleet, listing, {"image": IMAGES[0], "name": "web", "replicas": 5})
        with pytest.raises(Conflict, match="h1 does not offer `create_service`: it manages no Swarm"):
            await plan_change(fleet, listing, {"image": IMAGES[0], "name": "web"}, ["h1"])
        return none.value

    error = swarm.run(work)
    assert error.message.startswith("no host is in a Swarm")
    assert "nothing starts containers again on another host when one fails" in error.message
    assert error.hint.startswith(
        "either form one: anvyl swarm init --hosts h1,h2,h3; or run one container on each host"
    )
    assert "anvyl run IMAGE --host h1,h2,h3 --restart unless-stopped" in error.hint


def test_a_swarm_is_formed_after_asking_and_no_token_is_left_anywhere(swarm: Lab) -> None:
    asked = swarm.anvyl("swarm", "init", "--hosts", "h1,h2", "--json")
    assert (asked.code, asked.json["error"]["code"]) == (5, "approval_needed")
    assert [host.engine.api.info()["Swarm"]["LocalNodeState"] for host in swarm.hosts] == ["inactive"] * 3

    formed = swarm.anvyl("swarm", "init", "--hosts", "h1,h2", "--yes", "--json")
    assert (formed.code, formed.json["error"]) == (0, None), formed
    assert formed.json["hosts"] == {"h1": {"ok": True, "role": "manager"}, "h2": {"ok": True, "role": "worker"}}

    extended = swarm.anvyl("swarm", "init", "--hosts", "h1,h2,h3", "--managers", "1", "--yes")
    assert (extended.code, extended.out) == (0, "h3 joined as a worker\n"), extended
    again = swarm.anvyl("swarm", "init", "--hosts", "h1,h2,h3", "--yes", "--json")
    assert (again.code, "are in the Swarm already" in again.err, "error" in again.err) == (0, True, False)
    assert again.json["error"] is None

    status = swarm.anvyl("swarm", "status", "--json").json
    assert {host: part.get("role") for host, part in status["hosts"].items() if host in swarm.names} == {
        "h1": "manager", "h2": "worker", "h3": "worker"
    }  # fmt: skip
    assert sorted(node["name"] for node in status["nodes"]) == swarm.names

    tokens = swarm.hosts[0].engine.api.inspect_swarm()["JoinTokens"].values()
    written = "".join([formed.out, formed.err, extended.out, extended.err])
    for home in [swarm.home, *(host.node.home for host in swarm.hosts)]:
        files = [path for path in home.rglob("*") if path.is_file()]
        assert any(path.name.startswith("audit") for path in files) or home == swarm.home
        written += "".join(path.read_bytes().decode("latin-1") for path in files)
    assert "join_swarm" in written, "the audit log has the call"
    assert not any(token in written or token[:30] in written for token in tokens)


def test_five_replicas_stay_five_when_a_node_is_partitioned(swarm: Lab) -> None:
    h3 = swarm.hosts[2]
    made = on_a_manager(swarm, "create_service", image=IMAGES[0], name="web", replicas=5)
    assert (made["running"], made["note"]) == (5, "")
    nodes = {row["name"]: row["tasks"] for row in on_a_manager(swarm, "list_nodes")["nodes"]}
    assert sorted(nodes.values()) == [1, 2, 2]

    h3.partition()
    began = time.monotonic()
    tasks: list[dict[str, Any]] = []
    while time.monotonic() - began < DOWN_SECONDS:
        info = on_a_manager(swarm, "get_service_info", name="web")
        tasks = [one for one in info["tasks"] if (one["state"], one["wanted"]) == ("running", "running")]
        if len(tasks) == 5 and {one["node"] for one in tasks} == {"h1", "h2"}:
            break
        time.sleep(0.5)  # the engine has no event for it
    assert sorted({one["node"] for one in tasks}) == ["h1", "h2"]
    running = [one for host in swarm.hosts[:2] for one in host.engine.api.containers()]
    assert len(running) == 5
    h3.heal()
    swarm.forget()


def test_a_manager_leaves_and_the_rest_goes_on(swarm: Lab) -> None:
    stuck = swarm.anvyl("swarm", "leave", "--host", "h1", "--yes", "--json")
    assert (stuck.code, stuck.json["error"]["code"]) == (1, "conflict")
    assert "2 other nodes would be left without a manager" in stuck.json["error"]["message"]

    left = swarm.anvyl("swarm", "leave", "--host", "h3", "--yes")
    assert (left.code, left.out) == (0, "h3 left the Swarm\n"), left
    assert sorted(row["name"] for row in on_a_manager(swarm, "list_nodes")["nodes"]) == ["h1", "h2"]
    assert on_a_manager(swarm, "list_services")["services"][0]["running"] == 5

    rejoined = swarm.anvyl("swarm", "init", "--hosts", "h1,h3", "--managers", "2", "--yes", "--json")
    assert rejoined.json["hosts"] == {"h3": {"ok": True, "role": "manager"}}
    away = swarm.anvyl("swarm", "leave", "--host", "h1", "--yes")
    assert (away.code, away.out) == (0, "h1 left the Swarm\n"), away
    assert on_a_manager(swarm, "scale_service", name="web", replicas=3)["running"] == 3

    ended = swarm.anvyl("swarm", "leave", "--yes", "--json")
    assert (ended.code, ended.json["hosts"]) == (0, {"h2": {"ok": True}, "h3": {"ok": True}}), ended
    states = [host.engine.api.info()["Swarm"]["LocalNodeState"] for host in swarm.hosts]
    assert states == ["inactive"] * 3
