"""Services and nodes of a Swarm of one node, with the official MCP client on a real engine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.auth.callers import LOCAL, Caller
from anvyl_mcp.server.swarm import membership, service_spec
from tests.server.tools.test_tools import call, refused
from tests.support.engine.engines import IMAGES, RealEngine

BUSY, WEB = IMAGES[0], IMAGES[2]
OPERATOR = Caller("ann", frozenset({"read", "operate"}), "token")


@pytest.fixture(scope="module")
def manager(engine: RealEngine) -> Iterator[RealEngine]:
    """The engine as the only node of a Swarm."""
    if not engine.private:
        pytest.skip("only a private engine can be in a Swarm")
    engine.api.init_swarm(advertise_addr="127.0.0.1")
    yield engine
    engine.api.leave_swarm(force=True)


@pytest.fixture(autouse=True)
def short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new task has to stay up for one second before the next is replaced, not for five."""
    monkeypatch.setattr(service_spec, "WATCH_SECONDS", 1)


@pytest.fixture
async def memory(engine: RealEngine) -> AsyncIterator[Client]:
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as opened:
        yield opened


@pytest.fixture
def tidy(manager: RealEngine) -> Iterator[RealEngine]:
    """A manager whose services are removed after the test."""
    yield manager
    for service in manager.api.services():  # type: ignore[no-untyped-call]  # the stubs leave it out
        manager.api.remove_service(service["ID"])  # type: ignore[no-untyped-call]  # the stubs leave it out
    while manager.api.containers(all=True, filters={"label": "com.docker.swarm.task"}):
        time.sleep(0.05)  # the engine removes them by itself


async def names(client: Client) -> set[str]:
    return {tool.name for tool in (await client.list_tools(cache_mode="refresh")).tools}


async def test_the_tools_of_a_manager_come_and_go_with_the_swarm(engine: RealEngine) -> None:
    if not engine.private:
        pytest.skip("only a private engine can be in a Swarm")
    changed = anyio.Event()
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:
        assert "create_service" not in await names(client)
        lost = await refused(client, "create_service", image=BUSY, name="web", replicas=5)
        assert lost["code"] == "conflict"
        assert "nothing moves containers to another host when one fails" in lost["message"]
        assert "anvyl swarm init" in lost["hint"]
        assert "anvyl run" in lost["hint"]
        for tool in ("scale_service", "drain_node"):
            arguments = {"replicas": 2} if tool == "scale_service" else {}
            assert await refused(client, tool, name="web", **arguments) == lost

        async def listen() -> None:
            async with client.listen(tools_list_changed=True) as events:
                async for _ in events:
                    changed.set()

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            engine.api.init_swarm(advertise_addr="127.0.0.1")
            try:
                with anyio.fail_after(15):
                    await changed.wait()
                offered = await names(client)
            finally:
                engine.api.leave_swarm(force=True)
            group.cancel_scope.cancel()

    assert {"create_service", "list_services", "drain_node"} <= offered
    assert not {name for name in offered if "_swarm" in name}, "the steps of forming a Swarm are in no listing"


async def test_a_client_of_the_handshake_protocol_is_notified_too(
    engine: RealEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not engine.private:
        pytest.skip("only a private engine can be in a Swarm")
    monkeypatch.setattr(membership, "FRESH_SECONDS", 0)
    notified = anyio.Event()

    async def hear(message: Any) -> None:
        assert type(message).__name__ == "ToolListChangedNotification"
        notified.set()

    async with (
        aclosing(Node(load(), serving=True)) as here,
        Client(here.server, mode="legacy", message_handler=hear) as client,
    ):
        assert client.server_capabilities.tools is not None
        assert client.server_capabilities.tools.list_changed
        assert "list_nodes" not in await names(client)
        engine.api.init_swarm(advertise_addr="127.0.0.1")
        try:
            assert "list_nodes" in await names(client)
            with anyio.fail_after(10):
                await notified.wait()
        finally:
            engine.api.leave_swarm(force=True)


async def test_a_service_is_created_scaled_updated_and_removed(tidy: RealEngine, memory: Client) -> None:
    made = await call(memory, "create_service", image=BUSY, name="web", replicas=2, env=["A=1"], memory="32m")
    assert (made["running"], made["replicas"], made["note"]) == (2, 2, "")

    assert (await call(memory, "scale_service", name="web", replicas=3))["running"] == 3
    (row,) = (await call(memory, "list_services"))["services"]
    assert (row["name"], row["image"], row["running"], row["replicas"]) == ("web", BUSY, 3, 3)

    assert (await call(memory, "scale_service", name="web", replicas=1))["running"] == 1
    changed = await call(memory, "update_service", name="web", image=WEB, env=["B=2"])
    assert (changed["image"], changed["update"]) == (WEB, "completed")
    inspected = tidy.api.inspect_service("web")  # type: ignore[no-untyped-call]  # the stubs leave it out
    assert sorted(inspected["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"]) == ["A=1", "B=2"]

    back = await call(memory, "rollback_service", name="web")
    assert (back["image"], back["update"]) == (BUSY, "rollback completed")

    error = await refused(memory, "update_service", name="web", image="anvyl-test/nosuch:1")
    assert error["message"].startswith("`web` runs as before")
    assert "No such image" in error["message"]
    info = await call(memory, "get_service_info", name="web")
    assert (info["image"], info["running"], info["tasks"][0]["state"]) == (BUSY, 1, "running")
    assert any(one["state"] == "rejected" and "No such image" in one["error"] for one in info["tasks"])

    assert (await call(memory, "remove_service", name="web"))["removed"]
    assert (await call(memory, "list_services"))["total"] == 0


async def test_a_service_that_cannot_run_leaves_nothing(tidy: RealEngine, memory: Client) -> None:
    error = await refused(memory, "create_service", image="anvyl-test/nosuch:1", name="bad", replicas=2)
    assert error["message"].startswith("no replica of `bad` could run: No such image")
    assert tidy.api.services() == []  # type: ignore[no-untyped-call]  # the stubs leave it out

    waiting = await refused(
        memory, "create_service", image=BUSY, name="far", constraints=["node.hostname==elsewhere"], ports=["80"]
    )
    assert waiting["message"] == "`80` does not say which port of the containers"


async def test_logs_of_all_replicas_say_who_wrote_them(tidy: RealEngine, memory: Client) -> None:
    command = "sh -c 'echo started; echo password=hunter2; trap exit TERM; sleep 600 & wait'"
    await call(memory, "create_service", image=BUSY, name="talk", replicas=2, command=command)

    read = await call(memory, "get_service_logs", name="talk")
    assert sorted(line.partition("@")[0] for line in read["lines"]) == ["talk.1", "talk.1", "talk.2", "talk.2"]
    assert sum(line.endswith("| started") for line in read["lines"]) == 2
    assert "hunter2" not in str(read)
    found = await call(memory, "get_service_logs", name="talk", grep="start", tail=1)
    assert len(found["lines"]) == 1
    assert found["truncated"]


async def test_a_drained_node_runs_nothing_until_it_is_activated(tidy: RealEngine, memory: Client) -> None:
    await call(memory, "create_service", image=BUSY, name="web", replicas=2)
    (node,) = (await call(memory, "list_nodes"))["nodes"]
    assert (node["status"], node["role"], node["tasks"]) == ("ready", "leader", 2)

    drained = await call(memory, "drain_node", name=node["name"])
    assert (drained["availability"], drained["left"]) == ("drain", 0)
    assert (await call(memory, "list_services"))["services"][0]["problem"].startswith("no suitable node")

    await call(memory, "activate_node", name=node["id"])
    assert (await call(memory, "scale_service", name="web", replicas=1))["running"] == 1
    error = await refused(memory, "drain_node", name="nowhere")
    assert error["message"] == "the Swarm has no node `nowhere`"
    assert node["name"] in error["hint"]


async def test_what_amounts_to_root_needs_exec(
    tidy: RealEngine, memory: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await call(memory, "create_service", image=BUSY, name="rooted", volumes=["/etc:/host:ro"])
    await call(memory, "create_service", image=BUSY, name="secret", env=["DB_PASSWORD=hunter2"])
    await call(memory, "create_service", image=BUSY, name="plain")
    await call(memory, "create_service", image=BUSY, name="kept", labels=["anvyl.protect=true"])

    monkeypatch.setattr("anvyl_mcp.server.calls.dispatch.caller_of", lambda request: OPERATOR)
    assert LOCAL.may("exec")
    for options in ({"volumes": ["data:/data"]}, {"volumes": ["/:/host"]}, {"network": "host"}):
        error = await refused(memory, "create_service", image=BUSY, name="new", **options)
        assert (error["code"], "needs the scope `exec`" in error["message"]) == ("denied", True)
    for name, why in (("rooted", "mounts the folder `/etc` of the host"), ("secret", "has secrets in its environment")):
        error = await refused(memory, "update_service", name=name, image=WEB)
        assert (error["code"], why in error["message"]) == ("denied", True)
    assert (await refused(memory, "scale_service", name="kept", replicas=2))["code"] == "denied"
    for tool in ("init_swarm", "announce_swarm_join", "leave_swarm"):
        arguments = {"address": "127.0.0.1"} if tool == "init_swarm" else {}
        assert (await refused(memory, tool, **arguments))["code"] == "denied"

    assert (await call(memory, "scale_service", name="rooted", replicas=2))["running"] == 2
    assert (await call(memory, "update_service", name="plain", image=WEB))["update"] == "completed"


async def test_the_policy_knows_services_and_nodes(tidy: RealEngine, tmp_path: Path, memory: Client) -> None:
    await call(memory, "create_service", image=BUSY, name="db")
    (node,) = (await call(memory, "list_nodes"))["nodes"]
    (tmp_path / "policy.toml").write_text(
        f'[[deny]]\nservices = ["db*"]\nsafety = ["changes", "destroys"]\n[[deny]]\nnodes = ["{node["name"]}"]\n',
        encoding="utf-8",
    )

    for tool, arguments in (
        ("scale_service", {"name": "db", "replicas": 2}),
        ("create_service", {"name": "db2", "image": BUSY}),
        ("drain_node", {"name": node["id"]}),
    ):
        assert (await refused(memory, tool, **arguments))["code"] == "denied"
    assert (await call(memory, "get_service_info", name="db"))["running"] == 1
