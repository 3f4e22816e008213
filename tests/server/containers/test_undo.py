"""The last change taken back: what it shows, what it does, and when it does nothing."""

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


def remembered() -> str:
    return (load().state_dir / "undo.json").read_text(encoding="utf-8")


async def refusal(client: Client, change: dict[str, Any], told: dict[str, Any] | None = None) -> dict[str, str]:
    arguments = {"name": change["name"], "operation": change["operation"]}
    result = await client.call_tool("undo_change", arguments, meta=told)  # type: ignore[arg-type]  # any fields go
    assert result.is_error and result.meta
    error: dict[str, str] = result.meta["anvyl/error"]
    return error


def test_a_stop_is_undone_once_it_was_shown_and_agreed_to(engine: RealEngine) -> None:
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
    assert anvyl("start", "web").code == 0, "what changed nothing is nothing to undo"

    assert anvyl("undo", "--yes").code == 0 and engine.state("web") == "exited"
    assert anvyl("undo", "--yes").code == 0 and engine.state("web") == "running"


def test_a_removed_container_is_made_again_as_it_was(engine: RealEngine) -> None:
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
        assert SECRET in remembered()
        shown = anvyl("undo", "--dry-run")
        assert f"create web again from {IMAGES[0]} and start it (removed" in shown.out
        assert "what was written inside the container" in shown.out and SECRET not in shown.out + shown.err
        done = anvyl("undo", "--yes", "--json")
        assert done.code == 0, done.err
        assert SECRET not in done.out + done.err + remembered() + anvyl("call", "get_last_change").out

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


def test_one_that_did_not_run_is_made_again_but_not_started(engine: RealEngine) -> None:
    engine.create("web")
    assert anvyl("rm", "web", "--yes").code == 0
    assert anvyl("undo", "--yes").code == 0
    assert engine.state("web") == "created"


def test_it_does_nothing_when_the_name_is_taken_or_the_image_is_gone(engine: RealEngine) -> None:
    engine.create("web", image=IMAGES[2])
    assert anvyl("rm", "web", "--yes").code == 0
    other = engine.create("web")

    taken = anvyl("undo", "--yes")
    assert taken.code == 1 and "there is another container `web` now" in taken.err
    assert engine.api.inspect_container("web")["Id"] == other
    engine.api.remove_container("web", force=True)


async def test_a_removed_one_whose_image_is_gone_stays_away(engine: RealEngine, client: Client) -> None:
    if not engine.private:
        pytest.skip("an image is made on an engine of the tests' own only")
    engine.create("seed")
    made = engine.api.commit("seed", "anvyl-test/gone", "1", changes=["LABEL unique=1"])
    engine.create("web", image="anvyl-test/gone:1")
    await call(client, "remove_container", name="web", force=True)
    engine.api.remove_image(made["Id"], force=True)

    change = await call(client, "get_last_change")
    assert not change["possible"] and "`anvyl-test/gone:1`, is not on this host any more" in change["reason"]
    assert (await refusal(client, change))["code"] == "conflict"
    assert not engine.api.containers(all=True, filters={"name": "web"})


async def test_what_moved_on_is_left_alone(engine: RealEngine, client: Client) -> None:
    engine.create("web")
    engine.api.start("web")
    await call(client, "stop_container", name="web")
    engine.api.start("web")

    change = await call(client, "get_last_change")
    assert change["reason"] == "`web` is running already, so there is nothing to undo"
    assert (await refusal(client, change))["message"] == change["reason"]
    engine.api.remove_container("web", force=True)
    assert "is gone" in (await call(client, "get_last_change"))["reason"]


async def test_a_change_is_undone_once_however_often_it_is_asked_for(engine: RealEngine, client: Client) -> None:
    engine.create("web")
    engine.api.start("web")
    await call(client, "stop_container", name="web")
    change = await call(client, "get_last_change")
    arguments = {"name": "web", "operation": change["operation"]}

    told: Any = {protocol_keys.OPERATION: "undo-1"}
    first = await client.call_tool("undo_change", arguments, meta=told)
    assert first.structured_content and first.structured_content["state"] == "running"
    engine.api.stop("web", timeout=0)
    repeat = await client.call_tool("undo_change", arguments, meta=told)
    assert repeat.structured_content == first.structured_content and engine.state("web") == "exited"
    assert (await refusal(client, change))["code"] == "not_found" and engine.state("web") == "exited"


async def test_who_may_only_read_sees_what_could_be_undone_and_undoes_nothing(
    engine: RealEngine, client: Client
) -> None:
    engine.create("web")
    engine.api.start("web")
    await call(client, "stop_container", name="web")
    told: Any = {protocol_keys.SCOPES: ["read"], protocol_keys.FOR: "reader"}

    seen = await client.call_tool("get_last_change", {}, meta=told)
    assert seen.structured_content and seen.structured_content["undo"] == "start web"
    assert (await refusal(client, seen.structured_content, told))["code"] == "denied"
    assert engine.state("web") == "exited"


@pytest.mark.parametrize(
    "options",
    [{"privileged": True}, {"binds": ["/etc:/host:ro"]}, {"pid_mode": "host"}, {"cap_add": ["SYS_ADMIN"]},
     {"sysctls": {"net.ipv4.ip_forward": "1"}}],
    ids=["privileged", "host-mount", "host-processes", "capability", "unknown-to-guardrails"],
)  # fmt: skip
async def test_making_a_powerful_container_again_needs_the_right_to_make_one(
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


async def test_an_ordinary_container_is_made_again_by_who_may_operate(engine: RealEngine, client: Client) -> None:
    engine.create("web", binds=["web-data:/data"], port_bindings={80: 18098})
    await call(client, "remove_container", name="web")
    change = await call(client, "get_last_change")
    told: Any = {protocol_keys.SCOPES: ["operate"], protocol_keys.FOR: "operator"}

    done = await client.call_tool("undo_change", {"name": "web", "operation": change["operation"]}, meta=told)
    assert not done.is_error, done.content


async def test_the_policy_counts_for_what_an_undo_does(engine: RealEngine, client: Client) -> None:
    engine.create("web")
    await call(client, "remove_container", name="web")
    change = await call(client, "get_last_change")
    policy = load().policy_file
    policy.parent.mkdir(parents=True, exist_ok=True)
    policy.write_text('[[deny]]\ntools = ["create_container"]\nwhy = "no new ones"\n', encoding="utf-8")

    denied = await refusal(client, change)
    assert denied["code"] == "denied" and "no new ones" in denied["message"]


async def test_what_cannot_be_remembered_is_not_removed(engine: RealEngine, client: Client) -> None:
    engine.create("web")
    (load().state_dir / "undo.json").write_text("{", encoding="utf-8")

    result = await client.call_tool("remove_container", {"name": "web"})
    assert result.is_error and "could not be remembered" in str(result.content)
    assert engine.state("web") == "created"
    await call(client, "start_container", name="web")


async def test_what_is_remembered_is_for_its_owner_only_and_never_in_the_audit(
    engine: RealEngine, client: Client
) -> None:
    engine.create("web", environment={"TOKEN": SECRET})
    await call(client, "remove_container", name="web")
    change = await call(client, "get_last_change")
    await call(client, "undo_change", name="web", operation=change["operation"])

    folder = load().state_dir
    assert (folder / "undo.json").stat().st_mode & 0o777 == 0o600
    for file in folder.rglob("*"):
        assert not file.is_file() or SECRET not in file.read_text(encoding="utf-8", errors="replace"), file


def test_no_model_is_offered_an_undo_because_a_person_must_see_it_first() -> None:
    chosen = select_tools("undo the last change", load_catalogue(load().cache_dir))
    assert chosen and not chosen & {"undo_change", "get_last_change"}
