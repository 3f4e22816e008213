"""Crashes, signals and full disks during changes: no second execution, no torn line.

The numbers in the names are rows of the fault table. The engine is a fake in this process that counts the changes of
each container.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import anyio
import psutil
import pytest

from anvyl_mcp.app.node import Node
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.core.settings import load
from anvyl_mcp.peers.connection.lean_client import LeanClient
from anvyl_mcp.peers.connection.listing import ToolAnswer
from anvyl_mcp.peers.connection.sdk_client import SdkClient
from anvyl_mcp.peers.hosts.registry import Peer
from tests.support.engine.fake_engine import FakeContainer, FakeEngine
from tests.support.hosts.nodes import NO_MODEL
from tests.support.hosts.restartable import RestartableServer, assert_consistent, restartable_server

ROOT = Path(__file__).parents[3]
SEED = int(os.environ.get("ANVYL_TEST_SEED", "1"))
TOOLS = {"start_container": "running", "stop_container": "exited", "restart_container": "running"}


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "e.sock") as started:
        yield started


@pytest.fixture
def server(fake: FakeEngine, tmp_path: Path) -> Iterator[RestartableServer]:
    with restartable_server(tmp_path / "home", DOCKER_HOST=fake.url, ANVYL_LMSTUDIO_URL=NO_MODEL) as made:
        yield made


async def call(wire: LeanClient, tool: str, name: str, operation: str) -> ToolAnswer:
    try:
        return await wire.call(tool, {"name": name}, seconds=30, meta={protocol_keys.OPERATION: operation})
    except AnvylError as error:
        return ToolAnswer(error=error)


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.long)])
async def test_a_server_killed_at_any_moment_does_nothing_twice(
    kills: int, server: RestartableServer, fake: FakeEngine
) -> None:
    """Every change has its own container, so that the engine's count is that of the operation."""
    dice = random.Random(SEED)
    outcomes = set[str]()
    fake.fault("POST .*", "after:0.05")
    for number in range(kills):
        wire = LeanClient(server.start())
        await wire.version()
        changes = [(dice.choice(list(TOOLS)), fake.add(f"c{number}-{one}"), f"op-{number}-{one}") for one in range(4)]
        answers: dict[str, ToolAnswer] = {}

        async def send(tool: str, box: FakeContainer, operation: str) -> None:
            answers[operation] = await call(wire, tool, box.name, operation)  # noqa: B023  awaited in this round

        async with anyio.create_task_group() as group:
            for one in changes:
                group.start_soon(send, *one)
            await anyio.sleep(dice.uniform(0, 0.2))
            server.end()
        await wire.close()
        wire = LeanClient(server.start())
        for tool, box, operation in changes:
            before, again = answers[operation], await call(wire, tool, box.name, operation)
            once_more = await call(wire, tool, box.name, operation)
            assert box.changes <= 1, (operation, before, again)
            if before.ok:
                assert again.ok and box.changes == 1
            if again.ok:
                assert box.changes == 1 and box.state == TOOLS[tool]
            else:
                assert again.error is not None and again.error.code == "unknown", again
                assert f"container `{box.name}` is {box.state} now" in again.error.message
            assert again.ok == once_more.ok
            outcomes.add("ok" if again.ok else "unknown")
        await wire.close()
        server.end()
        assert_consistent(server.home)
    assert server.stderr_lines == []
    assert outcomes == {"ok", "unknown"}


@pytest.mark.parametrize("seconds", [0.05, pytest.param(0.5, marks=pytest.mark.long)])
async def test_21_a_server_terminated_during_changes_leaves_nothing_behind(
    seconds: float, server: RestartableServer, fake: FakeEngine
) -> None:
    """A command on the host, and a change that the engine never answers."""
    fake.add("web")
    fake.add("db")
    fake.fault("POST /containers/.*/stop", "hang")
    url = server.start()
    wire = LeanClient(url, token=server.token)
    marker = f"sleep 3{random.Random(os.getpid()).randrange(10_000_000):07}"

    async def command() -> None:
        arguments = {"command": f"sh -c '{marker}; true'", "timeout": 300}
        with anyio.move_on_after(30):
            try:
                await wire.call("execute_command", arguments, seconds=320, meta={protocol_keys.OPERATION: "op-command"})
            except AnvylError:
                return

    async with anyio.create_task_group() as group:
        group.start_soon(command)
        group.start_soon(call, wire, "stop_container", "web", "op-stop")
        with anyio.fail_after(20):
            # There is no event for the start of a process.
            while not (running(marker) and any("/stop" in one for one in fake.requests)):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        await anyio.sleep(seconds)
        began = time.monotonic()
        await anyio.to_thread.run_sync(server.end, signal.SIGTERM)
        took = time.monotonic() - began
        group.cancel_scope.cancel()
    await wire.close()

    assert took <= 12
    assert not running(marker)
    assert_consistent(server.home)
    url = server.start()
    wire = LeanClient(url, token=server.token)
    again = await call(wire, "stop_container", "web", "op-stop")
    assert again.error is not None and again.error.code == "unknown"
    assert "container `web` is running now" in again.error.message
    assert sum("/stop" in one for one in fake.requests) == 1
    await wire.close()


def running(marker: str) -> bool:
    """Whether a process with that command line exists."""
    words = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return any(marker.split() == one for one in words)


@pytest.mark.parametrize("pair", list(itertools.combinations([*TOOLS, "remove_container"], 2)), ids="-".join)
async def test_22_concurrent_changes_of_one_container_are_serialized(
    pair: tuple[str, str], fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", fake.url)
    ends = {**TOOLS, "remove_container": "gone"}
    async with aclosing(Node(load(), serving=True)) as node:
        for planned in (False, True):
            box = fake.add("web", state="paused")
            expected = {protocol_keys.EXPECT: {"id": box.id, "state": "paused"}} if planned else {}
            answers: dict[str, ToolAnswer] = {}

            async def change(tool: str) -> None:
                session = SdkClient(node.server)
                answers[tool] = await session.call(tool, {"name": "web"}, seconds=20, meta=expected)  # noqa: B023
                await session.close()

            async with anyio.create_task_group() as group:
                for tool in pair:
                    group.start_soon(change, tool)

            done = [tool for tool, answer in answers.items() if answer.ok]
            final = box.state if box.id in fake.containers else "gone"
            assert done and final in {ends[tool] for tool in done}, answers
            if planned:
                assert len(done) == 1
            for answer in answers.values():
                assert answer.ok or (answer.error and answer.error.code in ("conflict", "not_found")), answer
            fake.containers.clear()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
def test_13_14_a_full_disk_refuses_changes_and_nothing_else(fake: FakeEngine, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    fake.add("web")
    inside = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    program = "from tests.server.calls.test_operation_faults import fill_the_disk; fill_the_disk()"
    command = ["unshare", "--mount", "sh", "-c", inside, str(home), sys.executable, "-c", program]
    environment = {**os.environ, "ANVYL_HOME": str(home), "DOCKER_HOST": fake.url}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])
    (web,) = fake.containers.values()
    assert counted["done"] == web.changes > 0 and counted["refused"] > 0


def fill_the_disk() -> None:
    """Shrink the free space step by step, each time with a change, a read and a new host; then free it again."""
    anyio.run(_fill_the_disk)


async def _fill_the_disk() -> None:
    home = Path(os.environ["ANVYL_HOME"])
    counted = {"done": 0, "refused": 0}
    async with aclosing(Node(load(), serving=True)) as node:
        node.fleet.registry.add(Peer("first", "http://127.0.0.1:4299"))
        hosts = (home / "hosts.toml").read_bytes()
        session = SdkClient(node.server)
        for left in [None, 400, 300, 220, 200, 180, 160, 140, 130, 100, 66, 60, 40, 20, 8, 4, 0, None, 0, 16, None]:
            (home / "filler").unlink(missing_ok=True)
            if left is not None:
                fill(home / "filler", left * 1024)
            began = time.monotonic()
            change = await session.call("restart_container", {"name": "web"}, seconds=20)
            if change.ok:
                counted["done"] += 1
            else:
                counted["refused"] += 1
                assert change.error is not None and change.error.code == "denied", change
                assert "changes are refused" in change.text and "No space left on device" in change.text
                assert "free space on the disk" in change.error.hint and time.monotonic() - began < 10
            assert change.ok or left is not None
            assert left is None or left > 8 or not change.ok
            assert (await session.call("list_containers", {}, seconds=20)).ok
            if left == 0:
                try:
                    node.fleet.registry.add(Peer("second", "http://127.0.0.1:4298"))
                except AnvylError as error:
                    assert "hosts.toml" in error.message and error.hint
                else:
                    raise AssertionError("a hosts file was written without space")
                assert (home / "hosts.toml").read_bytes() == hosts
        (home / "filler").unlink(missing_ok=True)
        await session.close()
    assert_consistent(home)
    print(json.dumps(counted))  # noqa: T201  the parent reads it


def fill(file: Path, left: int) -> None:
    """Write a file that leaves only `left` bytes free."""
    disk = os.statvfs(file.parent)
    with file.open("wb") as opened:
        opened.write(os.urandom(max(0, disk.f_bfree * disk.f_frsize - left)))
