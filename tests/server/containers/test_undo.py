"""Undo of the last change: what it shows, what it does, and when it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from mcp import Client

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.app.node import Node
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.settings import load
from anvyl_mcp.orchestrator.models.tool_subset import select_tools
from tests.server.tools.test_tools import call
from tests.support.engine.engines import IMAGES, SLEEP, RealEngine
from tests.support.hosts.nodes import anvyl

SECRET = "hunter2-of-the-test"


@pytest.fixture
async def client(engine: RealEngine) -> AsyncIterator[Client]:
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as opened:
        yield opened


def undo_file() -> str:
    return (load().state_dir / "undo.json").read_text(encoding="utf-8")


async def refusal(client: Client, change: dict[str, Any], meta: dict[str, Any] | None = None) -> dict[str, str]:
    arguments = {"name": change["name"], "operation": change["operation"]}
    result = await client.call_tool("undo_change", arguments, meta=meta)  # type: ignore[arg-type]  # any fields are allowed
    assert result.is_error and result.meta
    error: dict[str, str] = result.meta["anvyl/error"]
    return error


def test_a_stop_is_shown_confirmed_and_undone(engine: RealEngine) -> None:
    engine.create("web")
    engine.api.start("web")
    assert anvyl("stop", "web").code == 0

    asked = anvyl("undo")
    assert (asked.code, engine.state("web")) == (5, "exited")
    assert "start web (stopped" in asked.err and "by local)" in asked.err and "add --yes" in asked.err
    shown = anvyl("undo", "--dry-run")
    assert (shown.code, engine.state("web")) == (0, "exited") and "start web (stopped" in shown.out

    done = anvyl("undo", "--yes", "--json")
    assert done.code == 0 and done.json["result"]["state"] == "running" and done.json["undo"]["did"] == "stop"
    assert engine.state("web") == "running"
    again = anvyl("undo", "--yes", "--json")
    assert again.code == 1 and again.json["error"]["code"] == "not_found" and engine.state("web") == "running"


def test_a_start_is_undone_and_then_the_stop_before_it(engine: RealEngine) -> None:
    engine.create("web")
    engine.api.start("web")
    assert anvyl("stop", "web").code == 0
    assert anvyl("start", "web").code == 0
    assert anvyl("start", "web").code == 0, "a start that changed nothing is not recorded"

    assert anvyl("undo", "--yes").code == 0 and engine.state("web") == "exited"
    assert anvyl("undo", "--yes").code == 0 and engine.state("web") == "running"


def test_a_removed_container_is_recreated_with_its_settings(engine: RealEngine) -> None:
    engine.api.create_network("shop", labels={"anvyl.test": "1"})
    engine.api.create_network("back", labels={"anvyl.test": "1"})
    try:
        engine.api.create_container(
            IMAGES[0],
            name="web",
            command=list(SLEEP),
            labels={"anvyl.test": "1", "team": "shop"},
            environment={"DB_PASSWORD": SECRET, "MODE": "fast"},
            ports=[80],
            volumes=["/cache"],
            host_config=engine.api.create_host_config(
                init=True,
                binds=["web-data:/data"],
                port_bindings={80: ("127.0.0.1", 18099)},
                restart_policy={"Name": "unless-stopped"},
                network_mode="shop",
                mem_limit="64m",
            ),
            networking_config={"EndpointsConfig": {"shop": {"Aliases": ["front"]}}},
        )
        engine.api.connect_container_to_network("web", "back", aliases=["behind"])
        engine.api.start("web")
        engine.output("web", "sh -c 'echo kept > /data/a; echo kept > /cache/b'")
        before = engine.api.inspect_container("web")

        assert anvyl("rm", "web", "--force", "--yes").code == 0
        assert SECRET in undo_file()
        shown = anvyl("undo", "--dry-run")
        assert f"create web again from {IMAGES[0]} and start it (removed" in shown.out
        assert "data written inside the container" in shown.out and SECRET not in shown.out + shown.err
        done = anvyl("undo", "--yes", "--json")
        assert done.code == 0, done.err
        assert SECRET not in done.out + done.err + undo_file() + anvyl("call", "get_last_change").out

        after = engine.api.inspect_container("web")
        assert after["Id"] != before["Id"] and after["State"]["Status"] == "running"
        for name in ("Env", "Labels", "Cmd", "Image", "ExposedPorts"):
            assert after["Config"][name] == before["Config"][name], name
        for name in ("PortBindings", "RestartPolicy", "NetworkMode", "Memory", "Init"):
            assert after["HostConfig"][name] == before["HostConfig"][name], name
        assert set(after["NetworkSettings"]["Networks"]) == {"shop", "back"}
        assert "front" in after["NetworkSettings"]["Networks"]["shop"]["Aliases"]
        assert "behind" in after["NetworkSettings"]["Networks"]["back"]["Aliases"]
        assert engine.output("web", "cat /data/a /cache/b") == "kept\nkept\n"
    finally:
        engine.clean()
        for network in ("shop", "back"):
            engine.api.remove_network(network)


def test_a_container_that_was_not_running_is_recreated_but_not_started(engine: RealEngine) -> None:
    engine.create("web")
    assert anvyl("rm", "web", "--yes").code == 0
    assert anvyl("undo", "--yes").code == 0
    assert engine.state("web") == "created"


def test_a_container_is_not_recreated_if_its_name_is_taken(engine: RealEngine) -> None:
    engine.create("web", image=IMAGES[2])
    assert anvyl("rm", "web", "--yes").code == 0
    other = engine.create("web")

    taken = anvyl("undo", "--yes")
    assert taken.code == 1 and "another container is named `web` now" in taken.err
    assert engine.api.inspect_container("web")["Id"] == other
    engine.api.remove_container("web", force=True)


async def test_a_container_is_not_recreated_if_its_image_is_gone(engine: RealEngine, client: Client) -> None:
    if not engine.private:
        pytest.skip("creates an image, which needs a private engine")
    engine.create("seed")
    made = engine.api.commit("seed", "anvyl-test/gone", "1", changes=["LABEL unique=1"])
    engine.create("web", image="anvyl-test/gone:1")
    await call(client, "remove_container", name="web", force=True)
    engine.api.remove_image(made["Id"], force=True)

    change = await call(client, "get_last_change")
    assert not change["possible"] and "`anvyl-test/gone:1`, is no longer on this host" in change["reason"]
    assert (await refusal(client, change))["code"] == "conflict"
    assert not engine.api.containers(all=True, filters={"name": "web"})


async def test_a_container_that_changed_since_is_left_alone(engine: RealEngine, client: Client) -> None:
    engine.create("web")
    engine.api.start("web")
    await call(client, "stop_container", name="web")
    engine.api.start("web")

    change = await call(client, "get_last_change")
    assert change["reason"] == "`web` is already running, so there is nothing to undo"
    assert (await refusal(client, change))["message"] == change["reason"]
    engine.api.remove_container("web", force=True)
    assert "no longer exists" in (await call(client, "get_last_change"))["reason"]


async def test_a_repeated_undo_request_runs_once(engine: RealEngine, client: Client) -> None:
    engine.create("web")
    engine.api.start("web")
    await call(client, "stop_container", name="web")
    change = await call(client, "get_last_change")
    arguments = {"name": "web", "operation": change["operation"]}

    meta: Any = {protocol_keys.OPERATION: "undo-1"}
    first = await client.call_tool("undo_change", arguments, meta=meta)
    assert first.structured_content and first.structured_content["state"] == "running"
    engine.api.stop("web", timeout=0)
    repeat = await client.call_tool("undo_change", arguments, meta=meta)
    assert repeat.structured_content == first.structured_content and engine.state("web") == "exited"
    assert (await refusal(client, change))["code"] == "not_found" and engine.state("web") == "exited"


async def test_a_reader_sees_the_last_change_but_cannot_undo_it(engine: RealEngine, client: Client) -> None:
    engine.create("web")
    engine.api.start("web")
    await call(client, "stop_container", name="web")
    meta: Any = {protocol_keys.SCOPES: ["read"], protocol_keys.FOR: "reader"}

    seen = await client.call_tool("get_last_change", {}, meta=meta)
    assert seen.structured_content and seen.structured_content["undo"] == "start web"
    assert (await refusal(client, seen.structured_content, meta))["code"] == "denied"
    assert engine.state("web") == "exited"


@pytest.mark.parametrize(
    "options",
    [{"privileged": True}, {"binds": ["/etc:/host:ro"]}, {"pid_mode": "host"}, {"cap_add": ["SYS_ADMIN"]},
     {"sysctls": {"net.ipv4.ip_forward": "1"}}],
    ids=["privileged", "host-mount", "host-processes", "capability", "unknown-to-guardrails"],
)  # fmt: skip
async def test_recreating_a_root_equivalent_container_needs_exec(
    engine: RealEngine, client: Client, options: dict[str, Any]
) -> None:
    engine.create("web", **options)
    await call(client, "remove_container", name="web")
    change = await call(client, "get_last_change")

    denied = await refusal(client, change, {protocol_keys.SCOPES: ["operate"], protocol_keys.FOR: "operator"})
    assert denied["code"] == "denied" and "needs the scope `exec`" in denied["message"]
    assert not engine.api.containers(all=True, filters={"name": "web"})
    await call(client, "undo_change", name="web", operation=change["operation"])
    assert engine.state("web") == "created"


async def test_an_operator_may_recreate_an_ordinary_container(engine: RealEngine, client: Client) -> None:
    engine.create("web", binds=["web-data:/data"], port_bindings={80: 18098})
    await call(client, "remove_container", name="web")
    change = await call(client, "get_last_change")
    meta: Any = {protocol_keys.SCOPES: ["operate"], protocol_keys.FOR: "operator"}

    done = await client.call_tool("undo_change", {"name": "web", "operation": change["operation"]}, meta=meta)
    assert not done.is_error, done.content


async def test_the_policy_applies_to_an_undo(engine: RealEngine, client: Client) -> None:
    engine.create("web")
    await call(client, "remove_container", name="web")
    change = await call(client, "get_last_change")
    policy = load().policy_file
    policy.parent.mkdir(parents=True, exist_ok=True)
    policy.write_text('[[deny]]\ntools = ["create_container"]\nwhy = "no new ones"\n', encoding="utf-8")

    denied = await refusal(client, change)
    assert denied["code"] == "denied" and "no new ones" in denied["message"]


async def test_a_container_is_not_removed_if_it_cannot_be_recorded(engine: RealEngine, client: Client) -> None:
    engine.create("web")
    (load().state_dir / "undo.json").write_text("{", encoding="utf-8")

    result = await client.call_tool("remove_container", {"name": "web"})
    assert result.is_error and "could not be recorded" in str(result.content)
    assert engine.state("web") == "created"
    await call(client, "start_container", name="web")


async def test_the_undo_file_is_private_and_its_content_is_not_audited(engine: RealEngine, client: Client) -> None:
    engine.create("web", environment={"TOKEN": SECRET})
    await call(client, "remove_container", name="web")
    change = await call(client, "get_last_change")
    await call(client, "undo_change", name="web", operation=change["operation"])

    folder = load().state_dir
    assert (folder / "undo.json").stat().st_mode & 0o777 == 0o600
    for file in folder.rglob("*"):
        assert not file.is_file() or SECRET not in file.read_text(encoding="utf-8", errors="replace"), file


def test_no_model_is_offered_an_undo() -> None:
    chosen = select_tools("undo the last change", load_catalogue(load().cache_dir))
    assert chosen and not chosen & {"undo_change", "get_last_change"}
