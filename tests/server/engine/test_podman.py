"""Every toolset on Podman, which implements Docker's API with many small differences."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import TextContent

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from tests.server.tools.test_tools import call, refused
from tests.support.engine.daemon import UnavailableError
from tests.support.engine.engines import RealEngine
from tests.support.engine.podman import IMAGE, private_podman

pytestmark = pytest.mark.engine

BUSY = "sh -c 'while :; do :; done'"


@pytest.fixture(scope="module")
def podman() -> Iterator[RealEngine]:
    try:
        with private_podman("podman") as started:
            yield started
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
async def client(podman: RealEngine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    monkeypatch.setenv("DOCKER_HOST", podman.url)
    async with aclosing(Node(load({"toolsets": "all"}), serving=True)) as here, Client(here.server) as opened:
        yield opened
    podman.clean()


async def run(client: Client, name: str, **options: Any) -> dict[str, Any]:
    return await call(client, "create_container", image=IMAGE, name=name, **options)


async def test_the_engine_is_named_podman(client: Client) -> None:
    result = await client.call_tool("get_host_info")

    assert isinstance(result.content[0], TextContent) and "\nPodman 4" in result.content[0].text


async def test_the_life_cycle_of_a_container(client: Client, podman: RealEngine) -> None:
    made = await run(
        client, "web", ports=["18080:80", "127.0.0.1:19090:90/udp"], env=["API_TOKEN=hunter2", "PLAIN=1"],
        labels=["tier=front"], memory="64m", cpus="0.5", restart="unless-stopped", volumes=["kept:/data"],
    )  # fmt: skip
    assert made["state"] == podman.state("web") == "running"

    listed = await call(client, "list_containers", label="tier=front")
    assert [(one["name"], one["ports"]) for one in listed["containers"]] == [
        ("web", ["127.0.0.1:19090->90/udp", "18080->80"])
    ]
    info = await call(client, "get_container_info", name=made["id"][:6])
    assert (info["name"], info["restart_policy"], info["image"]) == ("web", "unless-stopped", IMAGE)
    assert "PLAIN=1" in info["env"] and not any("hunter2" in entry for entry in info["env"])
    assert [(one["source"], one["target"]) for one in info["mounts"]] == [("kept", "/data")]
    for tool, state in (("stop_container", "exited"), ("start_container", "running"), ("restart_container", "running")):
        assert (await call(client, tool, name="web"))["state"] == podman.state("web") == state
    assert (await refused(client, "remove_container", name="web"))["code"] == "conflict"
    await call(client, "remove_container", name="web", force=True)
    assert podman.state("web") is None
    await call(client, "remove_volume", name="kept")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ({"command": "/no/such"}, "invalid_input", "the image has no program `/no/such`"),
        ({"network": "nowhere"}, "not_found", "nowhere"),
        ({"ports": ["18081:80"]}, "conflict", "port 18081 is already in use"),
        ({"name": "first"}, "conflict", "`first`"),
        ({"image": "docker.io/library/no-such-image:9"}, "not_found", "no-such-image:9"),
    ],
)
async def test_a_failed_create_leaves_nothing_behind(
    arguments: dict[str, Any], code: str, message: str, client: Client, podman: RealEngine
) -> None:
    await run(client, "first", ports=["18081:80"])

    error = await refused(client, "create_container", **{"image": IMAGE, "name": "app", **arguments})

    assert (error["code"], message in error["message"]) == (code, True), error
    assert podman.state("app") is None and podman.state("first") == "running"


async def test_logs_and_commands(client: Client) -> None:
    await run(client, "talk", command="sh -c 'echo one; echo two >&2; sleep 600'")

    assert sorted((await call(client, "get_container_logs", name="talk"))["lines"]) == ["one", "two"]
    assert (await call(client, "get_container_logs", name="talk", grep="TWO", since="10m"))["lines"] == ["two"]
    ran = await call(client, "exec_in_container", name="talk", command="sh -c 'echo out; echo err >&2; exit 3'")
    assert (ran["exit_code"], ran["stdout"], ran["stderr"]) == (3, "out\n", "err\n")
    error = await refused(client, "exec_in_container", name="talk", command="no-such-program")
    assert error["code"] == "not_found" and error["message"].endswith("executable file not found in $PATH")
    late = await call(client, "exec_in_container", name="talk", command="sleep 4321", timeout=1)
    assert late["timed_out"] is True
    if not late["note"]:
        assert "4321" not in (await call(client, "exec_in_container", name="talk", command="ps"))["stdout"]


async def test_a_busy_container_shows_its_cpu_usage(client: Client) -> None:
    """Podman claims to return two samples, but takes one: a cpu share needs a second request."""
    await run(client, "busy", command=BUSY)
    await run(client, "idle")

    rows = (await call(client, "get_container_stats"))["containers"]

    assert [row["name"] for row in rows] == ["busy", "idle"]
    assert rows[0]["cpu_percent"] > 10 > rows[1]["cpu_percent"]
    assert 0 < rows[1]["memory_used"] < rows[1]["memory_limit"]


async def test_what_happened_is_recorded_while_calls_go_on(podman: RealEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", podman.url)
    async with (
        aclosing(Node(load({"toolsets": "all"}), serving=True)) as node,
        node.recorder().run(),
        Client(node.server) as client,
    ):
        await run(client, "web", command="sh -c 'trap exit TERM; sleep 600 & wait'")
        assert (await call(client, "stop_container", name="web"))["state"] == "exited"
        await run(client, "crash", command="sh -c 'echo dying; exit 3'")
        shown: list[str] = []
        with anyio.fail_after(10):
            while not shown or "dying" not in shown[0]:  # the recorder has no event
                found = await client.call_tool("list_history", {})
                shown = [one.text for one in found.content if isinstance(one, TextContent)]
                await anyio.sleep(0.05)
    podman.clean()

    assert all(
        line in shown[0] for line in ("crash crashed (exit code 3)", "  | dying", "crash created and started by")
    )
    assert "web stopped by" in shown[0] and "web created and started by" in shown[0]


async def test_networks_volumes_images_and_the_engine_itself(client: Client, podman: RealEngine) -> None:
    await run(client, "web")
    assert [one["containers"] for one in (await call(client, "list_networks"))["networks"]] == [["web"]]
    await call(client, "create_network", name="home")
    assert (await refused(client, "create_network", name="home"))["code"] == "conflict"
    assert (await call(client, "connect_network", network="home", container="web"))["containers"] == ["web"]
    assert (await call(client, "disconnect_network", network="home", container="web"))["containers"] == []
    await call(client, "remove_network", name="home")
    assert (await refused(client, "remove_network", name="home"))["code"] == "not_found"
    await call(client, "create_volume", name="data")
    assert [one["name"] for one in (await call(client, "list_volumes"))["volumes"]] == ["data"]
    await call(client, "remove_volume", name="data")
    assert any(IMAGE in one["tags"] for one in (await call(client, "list_images"))["images"])
    usage = {one["kind"]: one for one in (await call(client, "get_disk_usage"))["usage"]}
    assert (usage["images"]["count"], usage["images"]["active"], usage["containers"]["active"]) == (1, 1, 1)
    assert usage["images"]["size"] > 100_000
    events = (await call(client, "list_events"))["events"]
    assert {("container", "start", "web"), ("volume", "create", "data")} <= {
        (one["type"], one["action"], one["name"]) for one in events
    }


async def test_pruning_removes_ended_containers_without_a_build_cache(client: Client, podman: RealEngine) -> None:
    await run(client, "running")
    await run(client, "ended", command="true")
    podman.api.wait("ended")

    assert (await call(client, "prune_unused", what="all"))["removed"] == ["container ended"]
    assert podman.state("running") == "running"
