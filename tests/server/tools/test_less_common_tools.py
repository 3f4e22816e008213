"""Less common tools, called with the official MCP client on a real engine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from docker.errors import APIError
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from anvyl_mcp.core.values.answer_size import MODEL_BYTES, json_size
from anvyl_mcp.server.engine import disk_usage, stats
from tests.server.tools.test_tools import call, refused, words
from tests.support.engine.counting_proxy import CountingProxy
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import ANVYL, ServingNode, anvyl, run_program


@pytest.fixture
async def memory(engine: RealEngine) -> AsyncIterator[Client]:
    async with aclosing(Node(load({"toolsets": "all"}), serving=True)) as here, Client(here.server) as opened:
        yield opened


@pytest.fixture
def tidy(engine: RealEngine) -> Iterator[RealEngine]:
    """An engine whose test networks, volumes and tags are removed after the test."""
    yield engine
    engine.clean()
    for network in engine.api.networks():
        if network["Name"].startswith("test-"):
            engine.api.remove_network(network["Id"])
    for volume in engine.api.volumes()["Volumes"] or []:
        if volume["Name"].startswith("test-"):
            engine.api.remove_volume(volume["Name"])
    with contextlib.suppress(APIError):
        engine.api.remove_image("test-tag:1")


async def test_stats_of_all_running_containers(memory: Client, engine: RealEngine) -> None:
    engine.run("busy", ["sh", "-c", "while :; do :; done"])
    engine.run("idle")
    engine.run("secret", labels={"anvyl.read": "false"})
    engine.create("stopped")

    found = await call(memory, "get_container_stats")

    assert [one["name"] for one in found["containers"]] == ["busy", "idle"]
    busy, idle = found["containers"]
    assert set(busy) == {
        "name", "cpu_percent", "memory_used", "memory_limit", "net_rx", "net_tx", "block_read", "block_write", "pids"
    }  # fmt: skip
    assert busy["cpu_percent"] > 10 > idle["cpu_percent"]
    assert 0 < idle["memory_used"] <= idle["memory_limit"]
    one = await call(memory, "get_container_stats", name="idle")
    assert [row["name"] for row in one["containers"]] == ["idle"]
    assert (await call(memory, "get_container_stats", name=""))["total"] == 2
    assert (await refused(memory, "get_container_stats", name="stopped"))["code"] == "conflict"
    assert (await refused(memory, "get_container_stats", name="idel"))["hint"] == "did you mean `idle`?"
    assert (await refused(memory, "get_container_stats", name="secret"))["code"] == "denied"


async def test_a_cached_sample_saves_the_second_request(
    engine: RealEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with API 1.44: two requests per container without a cached sample, one with it."""
    monkeypatch.setattr(stats, "FAST_SINCE", stats.ONE_SHOT_SINCE)
    monkeypatch.setattr(stats, "MIN_SAMPLE_AGE", 0)
    for name in ("one", "two", "three"):
        engine.run(name)
    rounds = []
    with CountingProxy(engine.url, tmp_path / "proxy.sock") as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.url)
        async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:
            for _ in range(2):
                proxy.requests.clear()
                assert (await call(client, "get_container_stats"))["total"] == 3
                rounds.append([request for request in proxy.requests if "/stats?" in request])

    assert [len(requests) for requests in rounds] == [6, 3]
    assert all("one-shot=True" in request for requests in rounds for request in requests)


STUBBORN = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]


@pytest.mark.parametrize("tool", ["stop_container", "restart_container"])
async def test_a_slow_stop_reports_its_time_limit(tool: str, memory: Client, engine: RealEngine) -> None:
    engine.run("stubborn", STUBBORN, init=False)
    reports: list[tuple[float, float | None, str | None]] = []

    async def record(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, total, message))

    arguments: dict[str, Any] = {"name": "stubborn", "timeout": 3}
    result = await memory.call_tool(tool, arguments, progress_callback=record)

    assert not result.is_error
    doing = tool.partition("_")[0].replace("stop", "stopp")
    assert reports[0][2] == f"{doing}ing stubborn: 1 of at most 3 s"
    assert [done for done, _, _ in reports] == sorted({done for done, _, _ in reports})


def test_interrupting_a_change_warns_that_it_may_still_happen(engine: RealEngine, tmp_path: Path) -> None:
    engine.run("stubborn", STUBBORN, init=False)
    with CountingProxy(engine.url, tmp_path / "proxy.sock") as proxy:
        command = subprocess.Popen(
            [ANVYL, "call", "stop_container", "name=stubborn", "timeout=30"],
            env={**os.environ, "DOCKER_HOST": proxy.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert proxy.wait_for_request("/stop")
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=20)

    assert (command.returncode, out) == (130, "")
    assert "`stop_container` was under way on" in err and "may still happen" in err


async def test_commands_run_in_a_container_without_a_shell(memory: Client, engine: RealEngine) -> None:
    engine.run("web")

    done = await call(memory, "exec_in_container", name="web", command="echo '$HOME; ls' | cat")

    assert done == {
        "exit_code": 0, "stdout": "$HOME; ls | cat\n", "stderr": "", "truncated": False, "timed_out": False, "note": ""
    }  # fmt: skip
    both = await call(memory, "exec_in_container", name="web", command="sh -c 'echo out; echo err >&2; exit 3'")
    assert (both["exit_code"], both["stdout"], both["stderr"]) == (3, "out\n", "err\n")
    command = "sh -c 'yes | head -c 1000000'"
    loud = await memory.call_tool("exec_in_container", {"name": "web", "command": command})
    fields = loud.structured_content or {}
    assert fields["truncated"] is True and 16_000 < len(fields["stdout"]) < 65_536
    assert json_size(fields) + len(words(loud).encode()) <= MODEL_BYTES
    # The command line gets the whole captured output.
    whole = run_program("call", "exec_in_container", "name=web", f"command={command}", "--yes", "--json")
    (entry,) = whole.json["hosts"].values()
    assert entry["result"]["truncated"] is True and len(entry["result"]["stdout"]) == 65_536
    shown = run_program("exec", "web", "--", "sh", "-c", "yes | head -c 1000000")
    assert shown.out.count("y\n") == 32_768, shown.err
    for number in range(20):
        assert (await call(memory, "exec_in_container", name="web", command=f"echo {number}"))[
            "stdout"
        ] == f"{number}\n"


async def test_a_command_in_a_container_that_times_out_is_killed(memory: Client, engine: RealEngine) -> None:
    engine.run("web")

    done = await call(
        memory, "exec_in_container", name="web", command="sh -c 'echo begun; sleep 1234 & sleep 1234'", timeout=1
    )

    assert (done["timed_out"], done["stdout"], done["note"]) == (True, "begun\n", "")
    assert done["exit_code"] == 137
    listed = engine.api.top("web")["Processes"]
    assert not [row for row in listed if "sleep 1234" in row[-1]]
    assert engine.state("web") == "running"


async def test_a_command_that_cannot_run_in_a_container_is_named(memory: Client, engine: RealEngine) -> None:
    engine.run("web")
    engine.create("stopped")

    missing = await refused(memory, "exec_in_container", name="web", command="no-such-program")
    assert missing["code"] == "not_found" and "`no-such-program` cannot be run in `web`" in missing["message"]
    assert (await refused(memory, "exec_in_container", name="stopped", command="ls"))["code"] == "conflict"
    assert (await refused(memory, "exec_in_container", name="wbe", command="ls"))["hint"] == "did you mean `web`?"
    assert (await refused(memory, "exec_in_container", name="web", command="'"))["code"] == "invalid_input"


async def test_container_details_start_with_the_state(memory: Client, engine: RealEngine) -> None:
    engine.run("web", port_bindings={80: 18082}, environment={"PLAIN": "1"})
    engine.run("failed", "sh -c 'exit 3'")
    await anyio.to_thread.run_sync(engine.api.wait, "failed")

    lines = words(await memory.call_tool("get_container_info", {"name": "web"})).splitlines()
    failed = await memory.call_tool("get_container_info", {"name": "failed"})

    assert lines[0].startswith("web (") and "): running, started " in lines[0]
    assert "ports 18082->80" in lines and "env PLAIN=1" in lines
    assert "): exited with code 3, " in words(failed) and failed.structured_content["finished_at"]


async def test_secret_values_are_shown_with_reveal(memory: Client, engine: RealEngine) -> None:
    engine.run("web", environment={"DB_PASSWORD": "hunter2"})

    assert "DB_PASSWORD=<hidden>" in (await call(memory, "get_container_info", name="web"))["env"]
    assert "DB_PASSWORD=hunter2" in (await call(memory, "get_container_info", name="web", reveal=True))["env"]


async def test_pulling_a_missing_image_fails(memory: Client, engine: RealEngine) -> None:
    error = await refused(memory, "pull_image", image="127.0.0.1:1/nothing:1")

    assert error["code"] == "engine_error"
    assert "127.0.0.1:1/nothing" in error["message"] and "could not be pulled" in error["message"]
    assert (await refused(memory, "pull_image", image="Not An Image"))["code"] == "invalid_input"


async def test_an_image_is_removed_name_by_name(memory: Client, tidy: RealEngine) -> None:
    tidy.create("maker")
    tidy.api.commit("maker", "test-tag", "1")
    tidy.api.tag("test-tag:1", "test-tag", "2")
    tidy.run("user", image="test-tag:1")

    assert (await refused(memory, "remove_image", image="test-tga:1"))["hint"].startswith("did you mean `test-tag:1`")
    renamed = await call(memory, "remove_image", image="test-tag:2")
    assert renamed == {"image": "test-tag:2", "untagged": ["test-tag:2"], "deleted": 0}
    assert (await refused(memory, "remove_image", image="test-tag:1"))["code"] == "conflict"
    tidy.api.remove_container("user", force=True)
    assert (await call(memory, "remove_image", image="test-tag:1"))["deleted"] > 0
    assert not tidy.api.images(name="test-tag:1")


async def test_the_life_cycle_of_a_network(memory: Client, tidy: RealEngine) -> None:
    tidy.run("web")

    await call(memory, "create_network", name="test-home", internal=True)
    assert (await refused(memory, "create_network", name="test-home"))["code"] == "conflict"
    joined = await call(memory, "connect_network", network="test-home", container="web")
    assert joined["containers"] == ["web"]
    row = next(one for one in (await call(memory, "list_networks"))["networks"] if one["name"] == "test-home")
    assert (row["containers"], row["internal"], row["driver"]) == (["web"], True, "bridge")
    in_use = await refused(memory, "remove_network", name="test-home")
    assert in_use["code"] == "conflict" and "active endpoints" in in_use["message"]
    left = await call(memory, "disconnect_network", network="test-home", container="web")
    assert left["containers"] == []
    assert (await refused(memory, "connect_network", network="test-hmoe", container="web"))["hint"].startswith(
        "did you mean `test-home`"
    )
    assert (await call(memory, "remove_network", name="test-home"))["removed"] is True
    assert not tidy.api.networks(names=["test-home"])
    assert (await refused(memory, "remove_network", name="bridge"))["code"] == "conflict"


async def test_a_volume_is_removed_once_it_is_unused(memory: Client, tidy: RealEngine) -> None:
    made = await call(memory, "create_volume", name="test-data")
    assert made["mountpoint"]
    assert (await refused(memory, "create_volume", name="test-data"))["code"] == "conflict"
    tidy.run("db", binds=["test-data:/data"])

    listed = (await call(memory, "list_volumes"))["volumes"]
    assert next(one for one in listed if one["name"] == "test-data")["containers"] == ["db"]
    in_use = await refused(memory, "remove_volume", name="test-data")
    assert in_use["message"] == "the volume `test-data` is used by db"
    tidy.api.remove_container("db", force=True)
    assert (await call(memory, "remove_volume", name="test-data"))["removed"] is True
    assert (await refused(memory, "remove_volume", name="test-data"))["code"] == "not_found"


async def test_protected_objects_are_not_removed(memory: Client, tidy: RealEngine) -> None:
    tidy.api.create_volume("test-kept", labels={"anvyl.protect": "true"})
    tidy.api.create_network("test-kept", labels={"anvyl.protect": "true"})

    assert (await refused(memory, "remove_volume", name="test-kept"))["code"] == "denied"
    assert (await refused(memory, "remove_network", name="test-kept"))["code"] == "denied"


async def test_disk_usage_has_a_row_for_every_kind(memory: Client, engine: RealEngine) -> None:
    engine.run("web")

    usage = {row["kind"]: row for row in (await call(memory, "get_disk_usage"))["usage"]}

    assert list(usage) == ["images", "containers", "volumes", "build cache"]
    assert usage["images"]["size"] > 100_000
    assert (usage["containers"]["count"], usage["containers"]["active"]) == (1, 1)


@pytest.mark.parametrize("suffix", ["Usage", "DiskUsage"])
def test_disk_usage_is_parsed_in_the_newer_format(suffix: str) -> None:
    """API 1.53 has only sums; guides/clients-and-models.md §6.3."""
    answer = {
        f"{kind}{suffix}": {"TotalCount": 3, "ActiveCount": 1, "TotalSize": 500, "Reclaimable": 200}
        for kind in ("Images", "Containers", "Volumes", "BuildCache")
    }

    rows = disk_usage.parse_usage(answer)

    assert [(row.kind, row.count, row.active, row.size, row.reclaimable) for row in rows] == [
        (kind, 3, 1, 500, 200) for kind in ("images", "containers", "volumes", "build cache")
    ]


async def test_pruning_keeps_running_named_and_protected_objects(memory: Client, tidy: RealEngine) -> None:
    tidy.run("runs")
    tidy.create("ended")
    tidy.create("kept", labels={"Anvyl.Protect": "yes"})
    tidy.api.create_network("test-empty")
    tidy.api.create_volume("test-named")
    unnamed = tidy.api.create_volume()["Name"]

    containers = await call(memory, "prune_unused", what="containers")
    everything = await call(memory, "prune_unused", what="all")

    assert containers["removed"] == ["container ended"]
    assert containers["kept"] == ["container kept: protected"]
    assert (tidy.state("runs"), tidy.state("ended"), tidy.state("kept")) == ("running", None, "created")
    assert {"network test-empty", f"volume {unnamed[:12]}"} <= set(everything["removed"])
    names = [one["Name"] for one in tidy.api.volumes()["Volumes"]]
    assert "test-named" in names and unnamed not in names
    assert (await refused(memory, "prune_unused", what="everything"))["code"] == "invalid_input"


async def test_events_do_not_contain_commands(memory: Client, engine: RealEngine) -> None:
    engine.run("web")
    await call(memory, "exec_in_container", name="web", command="echo pass=hunter2")

    found = await call(memory, "list_events", since="5m", limit=1000)

    happened = [(one["type"], one["action"]) for one in found["events"] if one["name"] == "web"]
    assert ("container", "start") in happened and ("container", "exec_start") in happened
    assert "hunter2" not in words(await memory.call_tool("list_events", {"limit": 1000}))
    assert len((await call(memory, "list_events", since="5m", limit=1))["events"]) == 1
    assert (await refused(memory, "list_events", since="yore"))["code"] == "invalid_input"


async def test_health_checks_are_merged_into_one_event(memory: Client, engine: RealEngine) -> None:
    engine.run("checked")
    for _ in range(3):
        await call(memory, "exec_in_container", name="checked", command="true")

    rows = [one for one in (await call(memory, "list_events"))["events"] if one["name"] == "checked"]

    assert [(one["action"], one["times"]) for one in rows if "exec" in one["action"]] == [("exec_start", 3)]
    assert "start" in [one["action"] for one in rows]
    assert "exec_start  checked  ×3" in words(await memory.call_tool("list_events"))


async def test_processes_are_listed_without_their_arguments(memory: Client) -> None:
    found = await call(memory, "list_processes", sort="memory", limit=3)

    assert len(found["processes"]) == 3 and found["more"] == found["total"] - 3
    assert found["processes"][0]["memory"] >= found["processes"][2]["memory"] > 0
    assert set(found["processes"][0]) == {"pid", "name", "user", "cpu_percent", "memory"}
    assert (await refused(memory, "list_processes", sort="age"))["code"] == "invalid_input"


def test_a_change_without_a_host_goes_to_the_host_with_the_image(
    fleet: ServingNode, engine: RealEngine, second_engine: RealEngine
) -> None:
    second_engine.api.tag("busybox:latest", "test-there", "latest")

    assert "did you mean `test-there:latest`" in anvyl("call", "remove_image", "image=test-theer", "--yes").err
    gone = anvyl("call", "remove_image", "image=test-there", "--yes", "--json")

    assert list(gone.json["hosts"]) == ["second"]
    assert not second_engine.api.images(name="test-there:latest")


def test_connecting_goes_to_the_host_with_the_container(
    fleet: ServingNode, engine: RealEngine, second_engine: RealEngine
) -> None:
    """Both hosts have a network `bridge`; only one has the container."""
    second_engine.run("web-there")

    error = anvyl("call", "connect_network", "network=bridge", "container=web-there", "--yes")

    assert "already exists in network bridge" in error.err
    assert "second" in error.err and "first" not in error.err
