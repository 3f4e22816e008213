"""Access to networks and volumes depends on what they give access to, however they are named.

Findings 3 (options of Podman's network), 5 (volumes of root-equivalent containers) and 20 (short network ids).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.policy.guardrails import needed_scope
from anvyl_mcp.server.toolsets import load_tools
from tests.server.tools.test_tools import call
from tests.support.engine.daemon import UnavailableError
from tests.support.engine.engines import RealEngine
from tests.support.engine.podman import IMAGE, private_podman

TOOLS = {one.name: one for one in load_tools()}
OPERATE: dict[str, Any] = {protocol_keys.SCOPES: ["operate", "read"], protocol_keys.FOR: "operator"}
LABEL = {"anvyl.test": "1"}


@pytest.fixture
async def client(engine: RealEngine) -> AsyncIterator[Client]:
    async with aclosing(Node(load({"toolsets": "all"}), serving=True)) as here, Client(here.server) as opened:
        yield opened


async def operate(client: Client, tool: str, **arguments: Any) -> dict[str, str]:
    """Call a tool with scopes `read` and `operate`; returns the error, empty on success."""
    result = await client.call_tool(tool, arguments, meta=OPERATE)  # type: ignore[arg-type]  # any fields go
    return (result.meta or {}).get(protocol_keys.ERROR, {}) if result.is_error else {}


async def made(client: Client, name: str, **options: Any) -> dict[str, str]:
    return await operate(client, "create_container", image="busybox:latest", command="sleep 60", name=name, **options)


@pytest.mark.parametrize(
    "network",
    [
        "host", "HOST", " host ", "container:db", "ns:/proc/1/ns/net", "pod:x", "service:web", "slirp4netns", "pasta",
        "private", "slirp4netns:allow_host_loopback=true", "slirp4netns:port_handler=rootlesskit", "pasta:--map-gw",
        "pasta:-T,22",
        "bridge:ip=10.0.0.9", "front:alias=db", "path:/x", "a:b", ":",
        "something-new:option", "a" * 12, "0" * 64,
    ],
)  # fmt: skip
@pytest.mark.parametrize("tool", ["create_container", "connect_network", "disconnect_network"])
def test_everything_but_the_name_of_a_network_needs_exec(tool: str, network: str) -> None:
    assert needed_scope(TOOLS[tool], {"network": network}) == "exec"


@pytest.mark.parametrize(
    "network", ["", "bridge", "default", "none", "front", "my_app.net-1", "hosts", "hostess", "pastan"]
)
def test_the_name_of_a_network_does_not_need_exec(network: str) -> None:
    assert needed_scope(TOOLS["create_container"], {"network": network}) == "operate"


async def test_a_network_id_prefix_is_checked_like_the_network(client: Client, engine: RealEngine) -> None:
    host = engine.api.inspect_network("host")["Id"]
    front = engine.api.create_network("front", labels=LABEL)["Id"]
    engine.run("web")
    try:
        for short in (host[:6], host[:11]):
            for tool, options in (
                ("create_container", {"image": "busybox:latest", "name": "one"}),
                ("connect_network", {"container": "web"}),
            ):
                error = await operate(client, tool, network=short, **options)
                assert error["code"] == "denied" and "`exec`" in error["message"], (tool, short, error)
        assert engine.state("one") is None
        assert await made(client, "two", network=front[:8]) == {}
        attached = engine.api.inspect_container("two")
        assert list(attached["NetworkSettings"]["Networks"]) == ["front"] == [attached["HostConfig"]["NetworkMode"]]
        missing = await made(client, "three", network="fron")
        assert (missing["code"], missing["hint"]) == ("not_found", "did you mean `front`?")
        assert engine.state("three") is None
    finally:
        engine.clean()
        engine.api.remove_network(front)


@pytest.fixture
def volumes(engine: RealEngine) -> Iterator[None]:
    before = {one["Name"] for one in engine.api.volumes()["Volumes"] or ()}
    yield
    engine.clean()
    for one in engine.api.volumes()["Volumes"] or ():
        if one["Name"] not in before:
            engine.api.remove_volume(one["Name"])


@pytest.mark.parametrize(
    "powers",
    [
        {"binds": ["/srv:/host", "work:/job"]},
        {"binds": ["/var/run/docker.sock:/var/run/docker.sock:ro", "work:/job:ro"]},
        {"binds": ["work:/job"], "privileged": True},
        {"binds": ["work:/job"], "network_mode": "host"},
        {"binds": ["work:/job"], "pid_mode": "host"},
        {"binds": ["work:/job"], "cap_add": ["SYS_ADMIN"]},
        {"binds": ["work:/job"], "security_opt": ["seccomp=unconfined"]},
        {"binds": ["work:/job", "disk:/disk"]},
    ],
    ids=["folder", "engine-socket", "privileged", "network", "processes", "capability", "security", "volume-options"],
)  # fmt: skip
async def test_a_volume_of_a_root_equivalent_container_needs_exec(
    client: Client, engine: RealEngine, volumes: None, powers: dict[str, Any]
) -> None:
    engine.api.create_volume("disk", driver_opts={"type": "none", "device": "/srv", "o": "bind"})
    engine.create("runner", **powers)

    for mode in ("work:/w", "work:/w:ro"):
        error = await made(client, "one", volumes=[mode])
        assert error["code"] == "denied" and "`work`" in error["message"] and "`runner`" in error["message"], error
    assert engine.state("one") is None


async def test_with_exec_such_a_volume_may_be_used(client: Client, engine: RealEngine, volumes: None) -> None:
    engine.create("runner", binds=["work:/job"], privileged=True)

    await call(client, "create_container", image="busybox:latest", name="one", command="sleep 60", volumes=["work:/w"])
    assert await made(client, "two", volumes=["other:/w"]) == {}


async def test_a_volume_linked_to_a_root_equivalent_container_needs_exec_too(
    client: Client, engine: RealEngine, volumes: None
) -> None:
    """Through another container that shares a second volume, and through the folder of the volume."""
    engine.create("helper", binds=["near:/near", "work:/job"])
    engine.create("runner", binds=["work:/job"], privileged=True)
    folder = engine.api.create_volume("watched")["Mountpoint"]
    engine.create("watcher", binds=[f"{folder}:/watched"])

    for name in ("near", "work", "watched"):
        assert (await made(client, "one", volumes=[f"{name}:/w"]))["code"] == "denied", name
    assert engine.state("one") is None


async def test_undo_does_not_mount_a_volume_of_a_root_equivalent_container(
    client: Client, engine: RealEngine, volumes: None
) -> None:
    engine.create("web", binds=["work:/w"])
    await call(client, "remove_container", name="web")
    change = await call(client, "get_last_change")
    engine.create("runner", binds=["work:/job"], privileged=True)

    error = await operate(client, "undo_change", name="web", operation=change["operation"])
    assert error["code"] == "denied" and "`runner`" in error["message"]
    assert engine.state("web") is None
    engine.api.remove_container("runner")
    assert await operate(client, "undo_change", name="web", operation=change["operation"]) == {}


async def test_an_ordinary_volume_is_shared_as_before(client: Client, engine: RealEngine, volumes: None) -> None:
    engine.create("db", binds=["data:/data"])

    assert await made(client, "backup", volumes=["data:/data:ro"]) == {}
    assert "denied" in str(await operate(client, "exec_in_container", name="backup", command="ls"))


@pytest.fixture(scope="module")
def podman() -> Iterator[RealEngine]:
    try:
        with private_podman("podman-rights") as started:
            yield started
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.engine
async def test_podman_network_options_give_no_access_to_the_host(
    podman: RealEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", podman.url)
    podman.run("runner", image=IMAGE, init=False, binds=["work:/job", "/srv:/host"])
    async with aclosing(Node(load({"toolsets": "all"}), serving=True)) as here, Client(here.server) as client:
        options: dict[str, Any] = {"image": IMAGE, "name": "esc", "command": "sleep 60"}
        for network in ("slirp4netns:allow_host_loopback=true", "host", "container:runner"):
            assert (await operate(client, "create_container", network=network, **options))["code"] == "denied", network
        assert (await operate(client, "create_container", volumes=["work:/w"], **options))["code"] == "denied"
        assert podman.state("esc") is None
        assert await operate(client, "create_container", network="podman", volumes=["own:/w"], **options) == {}
        await call(client, "remove_container", name="esc", force=True)
        change = await call(client, "get_last_change")
        assert await operate(client, "undo_change", name="esc", operation=change["operation"]) == {}
    podman.clean()
