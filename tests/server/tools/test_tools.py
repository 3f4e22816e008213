"""The tools of a host, called with the official MCP client over every transport, on a real engine."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from anvyl_mcp.app.node import Node
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.containers import problems
from tests.support.engine.counting_proxy import CountingProxy
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import ANVYL_MCP, ServingNode, running_node

TOOLS = [
    "list_containers",
    "get_container_info",
    "start_container",
    "stop_container",
    "restart_container",
    "remove_container",
    "create_container",
    "get_container_logs",
    "get_container_stats",
    "exec_in_container",
    "list_images",
    "pull_image",
    "remove_image",
    "get_host_info",
    "get_host_resources",
    "list_processes",
    "execute_command",
    "list_networks",
    "create_network",
    "remove_network",
    "connect_network",
    "disconnect_network",
    "list_volumes",
    "create_volume",
    "remove_volume",
    "get_disk_usage",
    "prune_unused",
    "list_unused",
    "list_events",
    "list_stacks",
    "get_stack_info",
    "deploy_stack",
    "revert_stack",
    "start_stack",
    "stop_stack",
    "restart_stack",
    "remove_stack",
    "get_stack_logs",
    "get_stack_stats",
    "list_updates",
    "update_container",
    "update_stack",
    "list_history",
    "get_usage_history",
    "get_last_change",
    "undo_change",
    "list_hosts",
]


@pytest.fixture(scope="module")
def node(engine: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running_node("tools", tmp_path_factory.mktemp("tools"), engine) as started:
        yield started


@pytest.fixture(params=["memory", "http", "http-handshake", "stdio", "stdio-handshake"])
async def client(request: pytest.FixtureRequest, engine: RealEngine, node: ServingNode) -> AsyncIterator[Client]:
    transport, _, handshake = request.param.partition("-")
    here = Node(load(), serving=True)
    # Without a token, tools that need `exec` are neither listed nor allowed over TCP.
    allowed = httpx2.AsyncClient(headers=node.headers, timeout=60, trust_env=False)
    target: Any = streamable_http_client(f"{node.url}/mcp", http_client=allowed)
    if transport == "memory":
        target = here.server
    elif transport == "stdio":
        target = StdioServerParameters(command=ANVYL_MCP, args=["serve", "--stdio"], env=dict(os.environ))
    async with aclosing(here), allowed, Client(target, mode="legacy" if handshake else "auto") as opened:
        yield opened


@pytest.fixture
async def memory(engine: RealEngine) -> AsyncIterator[Client]:
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as opened:
        yield opened


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, words(result)
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> dict[str, str]:
    """The error of a call that must fail: code, message and hint."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, words(result)
    assert result.meta is not None
    error: dict[str, str] = result.meta[protocol_keys.ERROR]
    assert error["message"] in words(result)
    return error


def words(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


async def test_lists_and_runs_containers_over_every_transport(client: Client, engine: RealEngine) -> None:
    """One test, five transports: modern and handshake protocols, in memory, over HTTP and over stdio."""
    assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
    engine.create("web")

    assert (await call(client, "start_container", name="web"))["state"] == "running"
    listed = await call(client, "list_containers")
    assert [(one["name"], one["state"]) for one in listed["containers"]] == [("web", "running")]
    assert (await call(client, "stop_container", name="web", timeout="5"))["state"] == "exited"
    assert engine.state("web") == "exited"
    assert (await call(client, "list_containers"))["containers"] == []
    assert (await call(client, "list_containers", all=True))["total"] == 1
    assert (await refused(client, "stop_container", name="wbe"))["hint"] == "did you mean `web`?"
    assert (await refused(client, "stop_container", name="web", forse=True))["code"] == "invalid_input"
    assert (await call(client, "remove_container", name="web"))["removed"] is True
    assert engine.state("web") is None


BY_COMMAND = ("get_last_change", "undo_change")
"""Only a command undoes; no phrase may do so by mistake."""


async def test_every_tool_has_a_description_and_a_safety(memory: Client) -> None:
    tools = (await memory.list_tools()).tools

    for tool in tools:
        assert tool.description and "\n" not in tool.description.split("\n\n")[0], tool.name
        assert tool.annotations is not None
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
        assert tool.meta is not None and (tool.meta[protocol_keys.TOOL]["say"] or tool.name in BY_COMMAND), tool.name
        for name, schema in tool.input_schema["properties"].items():
            assert schema["type"] in ("string", "boolean", "integer", "array"), (tool.name, name)
            assert not {"anyOf", "pattern", "maxLength", "title", "$ref"} & set(schema), (tool.name, name)
    by_safety = {tool.name: tool.meta[protocol_keys.TOOL]["safety"] for tool in tools if tool.meta}
    assert {name for name, safety in by_safety.items() if safety == "reads"} == {
        "get_last_change",
        "list_containers",
        "get_container_info",
        "get_container_logs",
        "get_container_stats",
        "list_images",
        "get_host_info",
        "get_host_resources",
        "list_processes",
        "list_networks",
        "list_volumes",
        "get_disk_usage",
        "list_unused",
        "list_stacks",
        "get_stack_info",
        "get_stack_logs",
        "get_stack_stats",
        "list_events",
        "list_history",
        "get_usage_history",
        "list_updates",
        "list_hosts",
    }
    assert {name for name, safety in by_safety.items() if safety == "destroys"} == {
        "remove_container",
        "exec_in_container",
        "remove_image",
        "remove_network",
        "remove_volume",
        "remove_stack",
        "prune_unused",
        "execute_command",
    }


async def test_a_hundred_containers_cost_one_list_request_and_a_bounded_number_of_inspections(
    engine: RealEngine, tmp_path: Path
) -> None:
    for number in range(100):
        engine.create(f"many-{number:03}")
    with CountingProxy(engine.url, tmp_path / "proxy.sock") as proxy:
        os.environ["DOCKER_HOST"] = proxy.url
        async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:
            await call(client, "list_containers", all=True, limit=1)  # connects, which asks for the API version
            proxy.requests.clear()
            listed = await call(client, "list_containers", all=True)
            shown = words(await client.call_tool("list_containers", {"all": True}))

    assert listed["total"] == 100 and len(listed["containers"]) == 100
    paths = [request.split("?")[0].rpartition("/containers")[2] for request in proxy.requests]
    assert paths.count("/json") == 2
    assert len(paths) == 2 * (1 + problems.MOST_INSPECTED)
    assert len(shown) < 60 * 100


async def test_lists_count_the_rows_left_out(memory: Client, engine: RealEngine) -> None:
    for number in range(5):
        engine.create(f"few-{number}")

    listed = await call(memory, "list_containers", all=True, name="few-", limit=2)

    assert (len(listed["containers"]), listed["total"], listed["more"]) == (2, 5, 3)
    assert "3 more" in words(await memory.call_tool("list_containers", {"all": True, "limit": 2}))


async def test_container_info_has_every_field_and_hides_secrets(memory: Client, engine: RealEngine) -> None:
    engine.run(
        "web",
        ["sleep", "3600"],
        labels={"team": "home"},
        environment={"DB_PASSWORD": "hunter2", "MODE": "fast", "URL": "postgres://me:pw@db/x"},
        restart_policy={"Name": "unless-stopped"},
        binds=["/tmp:/data:ro"],
    )

    info = await call(memory, "get_container_info", name="web")

    assert info["command"] == "sleep 3600"
    assert "DB_PASSWORD=<hidden>" in info["env"] and "MODE=fast" in info["env"]
    assert "URL=postgres://me:<hidden>@db/x" in info["env"]
    assert info["mounts"] == [{"source": "/tmp", "target": "/data", "mode": "ro"}]
    assert "team=home" in info["labels"]
    assert info["restart_policy"] == "unless-stopped"
    assert info["started_at"].endswith("+00:00")
    assert [re.sub(r" .*", "", network) for network in info["networks"]] == ["bridge"]
    assert "hunter2" not in words(await memory.call_tool("get_container_info", {"name": "web"}))


async def test_a_container_is_found_by_the_start_of_its_id(memory: Client, engine: RealEngine) -> None:
    created = engine.run("web")

    assert (await call(memory, "get_container_info", name=created[:6]))["name"] == "web"


async def test_creates_and_starts_a_container_with_all_options(memory: Client, engine: RealEngine) -> None:
    made = await call(
        memory,
        "create_container",
        image="busybox:latest",
        name="app",
        command="sh -c 'echo hello; sleep 3600'",
        ports=["127.0.0.1:18080:80", "18443:443/tcp"],
        env=["MODE=fast"],
        volumes=["/tmp:/data:ro"],
        labels=["team=home"],
        restart="unless-stopped",
        memory="64m",
        cpus="0.5",
    )

    assert made["state"] == "running"
    found = engine.api.inspect_container("app")
    assert found["HostConfig"]["Memory"] == 64 * 1024**2
    assert found["HostConfig"]["NanoCpus"] == 500_000_000
    assert found["HostConfig"]["Binds"] == ["/tmp:/data:ro"]
    assert found["HostConfig"]["PortBindings"]["80/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "18080"}]
    assert "MODE=fast" in found["Config"]["Env"]
    assert found["Config"]["Labels"]["team"] == "home"
    listed = (await call(memory, "list_containers"))["containers"]
    assert listed[0]["ports"] == ["127.0.0.1:18080->80", "18443->443"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ({"image": "no-such-image:1"}, "not_found", "no image `no-such-image:1` on this host"),
        ({"image": "busybox", "ports": ["http"]}, "invalid_input", "`http` is not a port"),
        ({"image": "busybox", "env": ["NOVALUE"]}, "invalid_input", "`NOVALUE` is not a valid entry of env"),
        ({"image": "busybox", "volumes": ["/data"]}, "invalid_input", "`/data` is not a volume"),
        ({"image": "busybox", "memory": "lots"}, "invalid_input", "`lots` is not a valid amount of memory"),
        ({"image": "busybox", "restart": "sometimes"}, "invalid_input", "`sometimes` is not a restart policy"),
        ({"image": "busybox", "cpus": "many"}, "invalid_input", "`many` is not a valid number of cpus"),
        ({"image": "busybox", "command": "'open"}, "invalid_input", "not a command line"),
        ({"image": "busybox", "command": "/no/such/program"}, "invalid_input", "/no/such/program"),
        ({"image": "busybox", "network": "nowhere"}, "not_found", "nowhere"),
    ],
)
async def test_a_failed_create_leaves_nothing_behind(
    arguments: dict[str, Any], code: str, message: str, memory: Client, engine: RealEngine
) -> None:
    error = await refused(memory, "create_container", name="app", **arguments)

    assert (error["code"], message in error["message"]) == (code, True), error
    assert engine.state("app") is None


async def test_a_port_in_use_is_named_and_the_new_container_removed(memory: Client, engine: RealEngine) -> None:
    engine.run("first", port_bindings={80: 18081})

    error = await refused(
        memory, "create_container", image="busybox", name="app", command="sleep 9", ports=["18081:80"]
    )

    assert error["code"] == "conflict"
    assert "port 18081 is already in use" in error["message"]
    assert engine.state("app") is None


async def test_a_name_in_use_is_a_conflict(memory: Client, engine: RealEngine) -> None:
    engine.run("app")

    error = await refused(memory, "create_container", image="busybox", name="app")

    assert (error["code"], "`app`" in error["message"]) == ("conflict", True)
    assert engine.state("app") == "running"


async def test_a_running_container_is_removed_only_with_force(memory: Client, engine: RealEngine) -> None:
    engine.run("web")

    assert (await refused(memory, "remove_container", name="web"))["code"] == "conflict"
    assert engine.state("web") == "running"
    await call(memory, "remove_container", name="web", force=True)
    assert engine.state("web") is None


async def test_restarting_gives_a_new_start_time(memory: Client, engine: RealEngine) -> None:
    engine.run("web")
    before = engine.api.inspect_container("web")["State"]["StartedAt"]

    assert (await call(memory, "restart_container", name="web"))["state"] == "running"
    assert engine.api.inspect_container("web")["State"]["StartedAt"] != before


async def logged(engine: RealEngine, name: str, script: str, **options: Any) -> None:
    """Run a container that writes its log and ends."""
    engine.run(name, ["sh", "-c", script], **options)
    await anyio.to_thread.run_sync(engine.api.wait, name)


async def test_logs_are_the_last_lines_cleaned_and_searchable(memory: Client, engine: RealEngine) -> None:
    await logged(engine, "talk", r"seq 1 500; printf '\033[31mred\033[0m \342\200\256evil\n'")

    logs = await call(memory, "get_container_logs", name="talk", tail=3)

    assert logs["lines"] == ["499", "500", "red evil"]
    assert logs["truncated"] is True
    found = await call(memory, "get_container_logs", name="talk", grep="RED")
    assert found["lines"] == ["red evil"] and found["truncated"] is False
    assert (await call(memory, "get_container_logs", name="talk", since=found["next_since"]))["lines"] == []
    assert len((await call(memory, "get_container_logs", name="talk", since="1h", tail=1000))["lines"]) == 501
    assert (await refused(memory, "get_container_logs", name="talk", since="yore"))["code"] == "invalid_input"


async def test_logs_of_a_terminal_and_of_a_container_that_keeps_writing(memory: Client, engine: RealEngine) -> None:
    engine.api.create_container("busybox:latest", name="tty", command=["sh", "-c", "echo one; echo two >&2"], tty=True)
    engine.api.start("tty")
    await anyio.to_thread.run_sync(engine.api.wait, "tty")
    engine.run("loud", ["yes", "x" * 200])

    assert (await call(memory, "get_container_logs", name="tty"))["lines"] == ["one", "two"]
    logs = await call(memory, "get_container_logs", name="loud", tail=5000)
    assert 0 < len(logs["lines"]) <= 5000
    assert sum(map(len, logs["lines"])) <= 200_000


async def test_images_and_the_host_have_their_fields(memory: Client, engine: RealEngine) -> None:
    image = (await call(memory, "list_images"))["images"][0]
    assert set(image) == {"id", "tags", "size", "created", "ports"} and image["size"] > 100_000
    host = await call(memory, "get_host_info")
    assert set(host) == {
        "name", "hostname", "os", "kernel", "arch", "cpus", "memory_total", "uptime_seconds", "engine", "limits"
    }  # fmt: skip
    assert host["engine"]["api_version"] and host["engine"]["error"] == ""
    resources = await call(memory, "get_host_resources")
    assert set(resources) == {
        "cpu_percent", "load", "memory", "swap", "disks", "cores", "temperatures", "uptime_seconds"
    }  # fmt: skip
    assert resources["disks"][0]["total"] > 0


async def test_commands_run_without_a_shell(memory: Client) -> None:
    done = await call(memory, "execute_command", command="echo '$HOME; ls' | cat")

    assert done == {"exit_code": 0, "stdout": "$HOME; ls | cat\n", "stderr": "", "truncated": False, "timed_out": False}


async def test_a_command_that_times_out_is_killed_with_its_children(memory: Client, tmp_path: Path) -> None:
    mark = tmp_path / "child"
    script = f"(sleep 60; touch {mark}) & echo $! > {mark}.pid; sleep 60"

    done = await call(memory, "execute_command", command=f'sh -c "{script}"', timeout=1)

    assert done["timed_out"] is True
    child = int(mark.with_suffix(".pid").read_text(encoding="utf-8"))
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


async def test_a_child_in_its_own_session_does_not_delay_the_result(memory: Client) -> None:
    started = time.monotonic()

    done = await call(memory, "execute_command", command="sh -c 'setsid sleep 8 & echo started'", timeout=30)

    assert (done["stdout"], done["timed_out"]) == ("started\n", False)
    assert time.monotonic() - started < 8


async def test_long_output_is_truncated_and_our_secrets_are_not_in_the_environment(
    memory: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVYL_LLM_API_KEY", "sk-very-secret")

    loud = await call(memory, "execute_command", command="sh -c 'yes | head -c 1000000'")
    assert loud["truncated"] is True and len(loud["stdout"]) <= 65_536
    assert "very-secret" not in (await call(memory, "execute_command", command="env"))["stdout"]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.long)])
async def test_many_commands_leave_no_zombies_and_no_descriptors(memory: Client, count: int) -> None:
    await call(memory, "execute_command", command="true")
    before = open_files()

    for _ in range(count):
        assert (await call(memory, "execute_command", command="sh -c 'true & exit 0'"))["exit_code"] == 0

    assert [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE] == []
    assert open_files() <= before + 2


async def test_a_command_that_does_not_exist_is_not_found(memory: Client) -> None:
    assert (await refused(memory, "execute_command", command="no-such-program"))["code"] == "not_found"
    assert (await refused(memory, "execute_command", command=" "))["code"] == "invalid_input"


async def test_an_engine_that_restarts_is_found_again(memory: Client, engine: RealEngine) -> None:
    if not engine.private:
        pytest.skip("stops the engine, which must be private")
    engine.run("web")
    assert (await call(memory, "list_containers"))["total"] == 1
    engine.stop()
    try:
        gone = await refused(memory, "list_containers")
    finally:
        engine.start()

    assert gone["code"] == "engine_missing"
    assert (await call(memory, "list_containers", all=True))["total"] == 1
