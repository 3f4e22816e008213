"""Odd responses of engines and socket proxies: known fields are shown, and each bad entry costs only its own row."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from mcp import Client
from mcp.types import TextContent

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.engine import stats
from tests.server.tools.test_tools import call, refused, words
from tests.support.engine.engines import RealEngine
from tests.support.engine.fake_engine import FakeEngine
from tests.support.hosts.nodes import anvyl

ODD: tuple[Any, ...] = (None, "", "x", -1, 0, 1.5, 2**80, True, [], ["x"], [None], {}, {"x": None}, [{"x": [None]}])
"""Values of the wrong type for a field."""
SAMPLE: dict[str, Any] = {
    "read": "2026-11-23T10:00:01Z",
    "preread": "2026-11-23T10:00:00Z",
    "num_procs": 0,
    "cpu_stats": {"cpu_usage": {"total_usage": 3_000}, "system_cpu_usage": 20_000, "online_cpus": 2},
    "precpu_stats": {"cpu_usage": {"total_usage": 1_000}, "system_cpu_usage": 10_000, "online_cpus": 2},
    "memory_stats": {"usage": 5_000, "limit": 9_000, "stats": {"inactive_file": 1_000}},
    "networks": {"eth0": {"rx_bytes": 7, "tx_bytes": 8}},
    "blkio_stats": {"io_service_bytes_recursive": [{"op": "read", "value": 5}, {"op": "write", "value": 6}]},
    "pids_stats": {"current": 4},
    "storage_stats": {},
}
NETWORK = {"Name": "lan", "Id": "c" * 64, "Driver": "bridge", "IPAM": {"Config": [{"Subnet": "10.0.0.0/24"}]}}
VOLUME = {"Name": "data", "Driver": "local", "Mountpoint": "/data", "CreatedAt": "2026-11-23T12:00:00+02:00"}
IMAGE = {"Id": "sha256:" + "b" * 64, "RepoTags": ["odd:1"], "Size": 5, "Created": 1_764_000_000}
EVENT = {"Type": "container", "Action": "start", "time": 1_764_000_000, "Actor": {"Attributes": {"name": "odd"}}}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "e.sock", version="1.44") as started:
        monkeypatch.setenv("DOCKER_HOST", started.url)
        yield started


@pytest.fixture
async def client(fake: FakeEngine) -> AsyncIterator[Client]:
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as opened:
        yield opened


async def ask(question: str) -> str:
    """The rules' answer to a question at the command line."""
    return (await anyio.to_thread.run_sync(lambda: anvyl("ask", "--offline", question))).out


def variants(usual: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Copies of the object, each with one field missing or odd, also in nested objects."""
    for name, part in usual.items():
        yield {key: value for key, value in usual.items() if key != name}
        yield from ({**usual, name: odd} for odd in ODD)
        if isinstance(part, dict):
            yield from ({**usual, name: inner} for inner in variants(part))
        if isinstance(part, list) and part and isinstance(part[0], dict):
            yield from ({**usual, name: [inner, *part[1:]]} for inner in variants(part[0]))


async def test_malformed_statistics_keep_a_row_for_every_container(
    fake: FakeEngine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fields that are null, missing or of the wrong type: openwrt/packages#26618, ualex73/monitor_docker#159."""
    monkeypatch.setattr(stats, "SAMPLE_INTERVAL", 0)
    good, odd = fake.add("good"), fake.add("odd")
    fake.answers[f"/containers/{good.id}/stats"] = SAMPLE

    for sample in variants(SAMPLE):
        fake.answers[f"/containers/{odd.id}/stats"] = sample
        rows = {row["name"]: row for row in (await call(client, "get_container_stats"))["containers"]}

        assert set(rows) == {"good", "odd"}, sample
        assert (rows["good"]["memory_used"], rows["good"]["pids"], rows["good"]["net_tx"]) == (4_000, 4, 8), sample


@pytest.mark.parametrize(
    ("sample", "row"),
    [
        ({**SAMPLE, "memory_stats": {"usage": None}}, {"cpu_percent": 40.0, "memory_used": None, "pids": 4}),
        ({**SAMPLE, "cpu_stats": {}, "precpu_stats": {}}, {"cpu_percent": None, "memory_used": 4_000}),
        ({**SAMPLE, "blkio_stats": {"io_service_bytes_recursive": [{"value": 1}]}}, {"block_read": 0, "net_rx": 7}),
        ({"memory_stats": {}, "cpu_stats": {}}, {"cpu_percent": None, "memory_used": None, "net_rx": None}),
        (
            {
                "read": "2026-11-23T10:00:01Z", "preread": "2026-11-23T10:00:00Z", "num_procs": 4,
                "cpu_stats": {"cpu_usage": {"total_usage": 7_000_000}},
                "precpu_stats": {"cpu_usage": {"total_usage": 2_000_000}},
                "memory_stats": {"commitbytes": 9, "privateworkingset": 300},
                "storage_stats": {"read_size_bytes": 11, "write_size_bytes": 12},
            },
            {"cpu_percent": 50.0, "memory_used": 300, "memory_limit": None, "block_read": 11, "block_write": 12},
        ),
    ],
    ids=["no memory", "no cpu", "an entry without op", "nothing", "Windows"],
)  # fmt: skip
async def test_known_figures_are_shown_and_others_are_null(
    sample: dict[str, Any], row: dict[str, Any], fake: FakeEngine, client: Client
) -> None:
    box = fake.add("odd")
    fake.answers[f"/containers/{box.id}/stats"] = sample

    found = (await call(client, "get_container_stats", name="odd"))["containers"][0]

    assert {name: found[name] for name in row} == row
    text = words(await client.call_tool("get_container_stats"))
    assert ("reports no figures for odd" in text) == (
        row["memory_used"] is None if "memory_used" in row else False
    ) or (row.get("cpu_percent") is not None)


async def test_failed_statistics_of_one_container_leave_the_others(fake: FakeEngine, client: Client) -> None:
    good, bad, gone = fake.add("good"), fake.add("bad"), fake.add("gone")
    fake.answers[f"/containers/{good.id}/stats"] = SAMPLE
    fake.fault(f"GET /containers/{bad.id}/stats", "500")
    fake.fault(f"GET /containers/{gone.id}/stats", "404")

    rows = {row["name"]: row["memory_used"] for row in (await call(client, "get_container_stats"))["containers"]}

    assert rows == {"good": 4_000, "bad": None}
    assert (await refused(client, "get_container_stats", name="bad"))["code"] == "engine_error"
    assert (await refused(client, "get_container_stats", name="gone"))["code"] == "not_found"


async def test_a_malformed_list_entry_keeps_its_row(fake: FakeEngine, client: Client) -> None:
    fake.add("good")
    odd = fake.add("odd")
    usual = {
        "Names": ["/odd"], "Image": "odd:1", "State": "running", "Status": "Up 2 hours", "Created": 1_764_000_000,
        "Ports": [{"PrivatePort": 80, "PublicPort": 8080, "Type": "tcp", "IP": "0.0.0.0"}],
        "Mounts": [{"Type": "volume", "Name": "data"}], "NetworkSettings": {"Networks": {"lan": {}}},
        "Labels": {"a": "b"},
    }  # fmt: skip
    fake.answers["/networks"] = [NETWORK]
    fake.answers["/volumes"] = {"Volumes": [VOLUME]}
    for entry in variants(usual):
        odd.listed = {name: entry.get(name) for name in usual}
        names = [row["name"] for row in (await call(client, "list_containers", all=True))["containers"]]

        # Labels may forbid something: a container whose labels cannot be parsed is not shown.
        readable = isinstance(entry.get("Labels"), dict | list | None) or not entry["Labels"]
        assert "good" in names and len(names) == 1 + readable, entry
        for tool in ("list_networks", "list_volumes"):
            assert (await call(client, tool))["total"] == 1, entry


@pytest.mark.parametrize(
    ("tool", "path", "usual", "wrapped"),
    [
        ("list_images", "/images/json", IMAGE, ""),
        ("list_networks", "/networks", NETWORK, ""),
        ("list_volumes", "/volumes", VOLUME, "Volumes"),
    ],
)
async def test_a_malformed_entry_costs_at_most_its_own_row(
    tool: str, path: str, usual: dict[str, Any], wrapped: str, fake: FakeEngine, client: Client
) -> None:
    good = {**usual, "Name": "good", "RepoTags": ["good:1"], "Id": "sha256:" + "d" * 64}
    entries: list[Any] = [*variants(usual), None, 7, "x", []]
    for entry in entries:
        fake.answers[path] = {wrapped: [entry, good]} if wrapped else [entry, good]
        rows = (await call(client, tool))[tool.removeprefix("list_")]

        assert any(row.get("name") == "good" or row.get("tags") == ["good:1"] for row in rows), entry
        own_name = "Name" if "Name" in usual else "Id"
        odd_labels = isinstance(entry, dict) and not isinstance(entry.get("Labels"), dict | list | None)
        unnamed = not isinstance(entry, dict) or not isinstance(entry.get(own_name), str)
        assert len(rows) == 2 or unnamed or odd_labels, entry


async def test_malformed_disk_usage_and_events_are_read(fake: FakeEngine, client: Client) -> None:
    usage: dict[str, Any] = {
        "LayersSize": 100,
        "Images": [{"Id": "a", "Size": 60, "SharedSize": -1, "Containers": 1}],
        "Containers": [{"SizeRw": 5, "State": "running"}],
        "Volumes": [{"UsageData": {"Size": 7, "RefCount": 1}}],
        "BuildCache": [{"Size": 9, "InUse": False, "Shared": False}],
    }
    for answer in variants(usage):
        fake.answers["/system/df"] = answer
        assert (await call(client, "get_disk_usage"))["total"] == 4, answer
    good = {**EVENT, "Actor": {"Attributes": {"name": "good"}}}
    events: list[Any] = [*variants(EVENT), None, 7, []]
    for event in events:
        fake.streams["/events"] = "\n".join(json.dumps(one) for one in (event, good)).encode()
        names = [one["name"] for one in (await call(client, "list_events", since="1h"))["events"]]
        assert "good" in names, event


async def test_a_malformed_inspect_response_is_shown(fake: FakeEngine, client: Client) -> None:
    usual = {
        "Created": "2026-11-23T12:00:00+02:00", "RestartCount": 2,
        "State": {
            "Status": "running", "Running": True, "ExitCode": 0, "StartedAt": "2026-11-23T10:00:00Z", "Error": "",
            "Health": {"Status": "healthy", "Log": [{"Output": "fine", "ExitCode": 0}]},
        },
        "Config": {"Image": "odd:1", "Env": ["A=1"], "Cmd": ["sh"], "Entrypoint": None},
        "HostConfig": {"RestartPolicy": {"Name": "always"}, "LogConfig": {"Type": "local"}},
        "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "", "HostPort": "80"}]}, "Networks": {"lan": {}}},
        "Mounts": [{"Name": "data", "Destination": "/data", "RW": True}],
    }  # fmt: skip
    box = fake.add("odd")
    for found in variants(usual):
        box.over = found
        assert (await call(client, "get_container_info", name="odd"))["id"] == box.id[:12], found


async def test_times_are_converted_to_utc(fake: FakeEngine, client: Client) -> None:
    fake.add("web", over={"Created": "2026-11-23T12:00:00.5+02:00"})
    fake.answers["/volumes"] = {"Volumes": [VOLUME]}

    assert (await call(client, "get_container_info", name="web"))["created"] == "2026-11-23T10:00:00+00:00"
    assert (await call(client, "list_volumes"))["volumes"][0]["created"] == "2026-11-23T10:00:00+00:00"


async def test_placeholder_dates_and_sizes_are_not_shown(fake: FakeEngine, client: Client) -> None:
    """docker/cli#2995, buildpacks/pack#70: "292 years ago"."""
    fake.images = [
        {"Id": f"sha256:{letter * 64}", "RepoTags": None, "Size": size, "Created": created}
        for letter, size, created in (("a", -1, 0), ("b", 30, -62_135_596_800), ("c", 20, 315_532_801))
    ]

    found = await client.call_tool("list_images")

    assert found.structured_content is not None and isinstance(found.content[0], TextContent)
    assert [(one["size"], one["created"]) for one in found.structured_content["images"]] == [
        (None, ""), (30, ""), (20, "")
    ]  # fmt: skip
    assert "ago" not in found.content[0].text and "-1" not in found.content[0].text
    assert "bbbbbbbbbbbb on" in (await ask("which image is the largest?"))


async def test_a_port_without_a_protocol_is_tcp(fake: FakeEngine, client: Client) -> None:
    fake.add("web", listed={"Ports": [{"PrivatePort": 80, "Type": None, "IP": None}]})

    assert (await call(client, "list_containers"))["containers"][0]["ports"] == ["80"]


HAPROXY = b"<html><body><h1>403 Forbidden</h1>\nRequest forbidden by administrative rules.\n</body></html>\n"


@pytest.mark.parametrize(
    "body",
    [HAPROXY, b"", b"Forbidden", b'{"message": "Forbidden"}', b'{"error": "denied"}', b"[]"],
    ids=["HAProxy", "empty", "plain", "Docker's form", "another form", "a list"],
)
async def test_a_refusing_socket_proxy_is_named_with_the_switches_to_set(
    body: bytes, fake: FakeEngine, client: Client
) -> None:
    """Tecnativa/docker-socket-proxy#78: clients show only "403"."""
    fake.add("web")
    fake.fault("POST .*", "403", body=body)

    error = await refused(client, "stop_container", name="web")

    assert error["code"] == "denied"
    assert error["message"] == f"the socket proxy at {fake.url} does not allow Anvyl to stop `web`"
    assert error["hint"].startswith("set POST=1 and CONTAINERS=1 in its environment")
    assert fake.containers and next(iter(fake.containers.values())).changes == 0


def test_a_refusal_is_a_failure_in_json(fake: FakeEngine) -> None:
    fake.add("web")
    fake.fault("POST .*", "403", body=HAPROXY)
    fake.fault("GET /images/json", "403", body=HAPROXY)

    stopped = anvyl("stop", "web", "--json")
    missing = anvyl("call", "get_container_info", "name=wbe", "--json")
    images = anvyl("images", "--json")

    (host,) = stopped.json["hosts"].values()
    assert (stopped.code, host["ok"], host["word"], host["code"]) == (1, False, "denied", "denied")
    assert missing.code == 1 and all(
        (one["ok"], one["word"]) == (False, "failed") for one in missing.json["hosts"].values()
    )
    (host,) = images.json["hosts"].values()
    assert "Set IMAGES=1" in host["error"]


async def test_a_machine_is_described_without_access_to_its_engine(fake: FakeEngine, client: Client) -> None:
    fake.fault("GET /info", "403", body=HAPROXY)

    assert "does not allow GET /info" in (await call(client, "get_host_info"))["engine"]["error"]


async def test_a_denial_by_the_engine_keeps_its_message(fake: FakeEngine, client: Client) -> None:
    fake.add("web")
    fake.fault("POST .*/stop", "403", body=b'{"message": "authorization denied by plugin opa: not on weekends"}')
    fake.fault("POST .*/start", "503", body=b"<html><head><title>x</title></head><h1>503</h1>No server there.</html>")

    error = await refused(client, "stop_container", name="web")
    broken = await refused(client, "start_container", name="web")

    assert error["code"] == "denied" and "not on weekends" in error["message"]
    assert broken["message"] == "the Docker engine failed to start `web`: 503 No server there."


async def test_every_tool_shows_the_real_state(client: Client, fake: FakeEngine) -> None:
    """portainer/portainer#8844: `Running` is true for containers that are paused or between two starts."""
    states = {"paused": True, "restarting": True, "dead": False, "removing": False, "created": False}
    for state, running in states.items():
        fake.add(
            state,
            state="running",
            listed={"State": state, "Status": "" if state != "paused" else "Up 2 hours"},
            over={"State": {"Status": state, "Running": running, "ExitCode": 3, "StartedAt": "2026-11-23T10:00:00Z"}},
        )

    listed = {one["name"]: one for one in (await call(client, "list_containers", all=True))["containers"]}
    for state in states:
        info = await client.call_tool("get_container_info", {"name": state})
        assert info.structured_content is not None
        assert (listed[state]["state"], info.structured_content["state"]) == (state, state)
        assert state in listed[state]["status"].lower() and info.structured_content["status"].startswith(state)
        assert f"): {state}" in words(info).splitlines()[0]


def _run_again(engine: RealEngine, name: str) -> None:
    engine.api.start(name)
    engine.api.wait(name, timeout=20)


async def test_details_explain_a_containers_state(engine: RealEngine) -> None:
    """Restart count, last exit code, out of memory, and the output of the health check."""
    check = {"test": ["CMD-SHELL", "echo no database on port 5432; exit 7"], "interval": 10**9, "retries": 1}
    engine.run("looper", ["sh", "-c", "exit 3"], restart_policy={"Name": "always"})
    engine.run("sick", healthcheck=check)
    engine.run("held")
    engine.api.pause("held")
    engine.run("greedy", ["sh", "-c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"], mem_limit="8m", init=False)
    engine.api.wait("greedy", timeout=20)
    try:
        async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:
            with anyio.fail_after(30):
                looper = await call(client, "get_container_info", name="looper")
                while looper["state"] != "restarting" or looper["restart_count"] < 2:
                    looper = await call(client, "get_container_info", name="looper")
                sick = await call(client, "get_container_info", name="sick")
                while not sick["health_output"]:
                    sick = await call(client, "get_container_info", name="sick")
                held = await call(client, "get_container_info", name="held")
                greedy = await call(client, "get_container_info", name="greedy")
                while not greedy["oom_killed"]:  # an engine misses some of the kernel's events: run it again
                    await anyio.to_thread.run_sync(_run_again, engine, "greedy")
                    greedy = await call(client, "get_container_info", name="greedy")
                usage = {row["name"]: row for row in (await call(client, "get_container_stats"))["containers"]}
        why, down = await ask("why is sick unhealthy?"), await ask("why is looper down?")
    finally:
        engine.api.unpause("held")

    assert looper["exit_code"] == 3 and looper["status"].startswith("restarting, last exit code 3, restarted")
    assert sick["health_output"] == "exit code 7: no database on port 5432"
    assert "its health check says: exit code 7: no database on port 5432" in why
    assert "restarted" in down
    assert held["status"].startswith("paused, up since 20")
    assert greedy["status"] == "exited with code 137, killed: out of memory"
    assert {"looper", "held", "sick"} <= set(usage)
