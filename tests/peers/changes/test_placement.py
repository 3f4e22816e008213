"""Placement of new containers: by made-up resources, and through the CLI on real engines."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.core.errors import AnvylError, InvalidInput, UnknownHost, Unreachable
from anvyl_mcp.peers.changes.placement import place
from anvyl_mcp.peers.connection.listing import ProgressCallback, ToolAnswer
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.hosts.registry import Peer, Registry
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import ServingNode, anvyl, write_hosts_file
from tests.support.stubs import StubConnection

GIB = 1024**3


class Machine(StubConnection):
    """A host that reports the given resources."""

    def __init__(self, used: int, total: int, load: float, cores: int, engine_error: str = "") -> None:
        self._usage = {"used": used * GIB, "total": total * GIB, "percent": 100 * used / total}
        self._load, self._cores, self._engine_error = load, cores, engine_error

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        seconds: float,
        meta: Mapping[str, Any] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> ToolAnswer:
        if tool == "get_host_info":
            engine = {"error": self._engine_error}
            fields: dict[str, Any] = dict.fromkeys(("name", "hostname", "os", "kernel", "arch"), "")
            return ToolAnswer(result={**fields, "cpus": 1, "memory_total": 1, "uptime_seconds": 1, "engine": engine})
        fields = {"disks": [], "temperatures": [], "uptime_seconds": 1, "cpu_percent": 1}
        usage = {"memory": self._usage, "swap": self._usage}
        return ToolAnswer(result={**fields, **usage, "load": [self._load], "cores": [1.0] * self._cores})


class Gone(StubConnection):
    """A host that does not answer."""

    async def call(self, tool: str, arguments: Mapping[str, Any], **_: Any) -> ToolAnswer:
        raise Unreachable("no answer within 3 s")


MACHINES: dict[str, Machine | Gone] = {
    "nas": Machine(used=2, total=8, load=0.1, cores=4),
    "gpu": Machine(used=20, total=32, load=6, cores=16),
    "pi": Machine(used=1, total=4, load=0.5, cores=4),
    "idle": Machine(used=1, total=64, load=0, cores=8, engine_error="no Docker engine answers"),
    "off": Gone(),
}


@pytest.fixture
def machines(tmp_path: Path) -> Fleet:
    file = tmp_path / "hosts.toml"
    tags = {"gpu": '["big"]', "pi": '["small", "home"]', "off": '["home"]', "idle": '["spare"]'}
    file.write_text(
        "".join(
            f'[hosts.{name}]\nurl = "http://127.0.0.1:{number}"\ntags = {tags[name]}\n'
            for number, name in enumerate(MACHINES, 1)
            if name != "nas"
        ),
        encoding="utf-8",
    )
    local = Peer("nas", "http://127.0.0.1:1")
    return Fleet(local, Registry(file), load_catalogue(tmp_path / "cache"), lambda peer: MACHINES[peer.name])


@pytest.mark.parametrize(
    ("words", "selector", "host", "why"),
    [
        ("most-memory", "", "gpu", "the most free memory: 12 GiB of 32 GiB"),
        ("least-loaded", "", "nas", "the least load: 0.1 on 4 cores"),
        ("@home", "", "pi", "the most free memory: 3 GiB of 4 GiB"),
        ("@home,least-loaded", "", "pi", "the least load: 0.5 on 4 cores"),
        ("Most-Memory, @small", "", "pi", "the most free memory: 3 GiB of 4 GiB"),
        ("most-memory", "nas,pi", "nas", "the most free memory: 6 GiB of 8 GiB"),
    ],
)
async def test_resources_decide_the_host(words: str, selector: str, host: str, why: str, machines: Fleet) -> None:
    placement = await place(machines, words, selector)

    assert (placement.host, placement.why) == (host, why)


async def test_hosts_that_cannot_run_containers_are_left_out_and_named(machines: Fleet) -> None:
    placement = await place(machines, "most-memory")

    assert placement.left_out == {"idle": "no Docker engine answers", "off": "no answer within 3 s"}
    assert set(placement.figures) == {"nas", "gpu", "pi"}


@pytest.mark.parametrize(
    ("words", "selector", "error", "says"),
    [
        ("most-memry", "", InvalidInput, "unknown placement rule `most-memry`"),
        ("most-memory,least-loaded", "", InvalidInput, "exactly one placement rule"),
        (" ", "", InvalidInput, "exactly one placement rule"),
        ("@nowhere", "", UnknownHost, "@nowhere"),
        ("@big", "nas", InvalidInput, "no host of nas has the tag @big"),
        ("@spare", "", Unreachable, "idle: no Docker engine answers"),
    ],
)
async def test_invalid_placement_rules_are_rejected(
    words: str, selector: str, error: type[AnvylError], says: str, machines: Fleet
) -> None:
    with pytest.raises(error, match=says):
        await place(machines, words, selector)


def test_a_placed_container_needs_approval(engine: RealEngine, second_engine: RealEngine, fleet: ServingNode) -> None:
    done = anvyl("run", "--place", "most-memory", "--name", "app", "busybox:latest", "--", "sleep", "3600")

    assert done.code == 5
    assert "has the most free memory: " in done.err
    assert "this would create container app from busybox:latest" in done.err
    assert engine.state("app") is second_engine.state("app") is None


def test_the_output_names_the_host_and_the_reason(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode
) -> None:
    done = anvyl(
        "run", "--place", "least-loaded", "--yes", "--json", "--name", "app", "busybox:latest", "--", "sleep", "3600"
    )

    assert done.code == 0
    placement = done.json["placement"]
    assert list(done.json["hosts"]) == [placement["host"]]
    assert set(placement["figures"]) == {"first", "second"}
    assert (engine if placement["host"] == "first" else second_engine).state("app") == "running"


def test_a_dead_host_is_not_chosen(engine: RealEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANVYL_NAME", "first")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        write_hosts_file("dead", f"http://127.0.0.1:{taken.getsockname()[1]}")
        done = anvyl("run", "--place", "most-memory", "--yes", "--name", "app", "busybox:latest", "--", "sleep", "3600")

    assert done.code == 0
    assert "not considered: dead (connection refused)" in done.err
    assert engine.state("app") == "running"


def test_a_memory_limit_above_every_host_is_rejected(engine: RealEngine) -> None:
    done = anvyl("run", "--place", "most-memory", "--yes", "-m", "9t", "busybox:latest", "--", "sleep", "3600")

    assert done.code == 2
    assert "no host has 9 TiB of memory free" in done.err
