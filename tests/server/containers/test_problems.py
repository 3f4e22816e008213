"""Problems of containers and hosts on a real engine: in the list and in "is everything ok?"."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio.to_thread
import pytest
from mcp import Client
from mcp_types import TextContent

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from tests.end_to_end.test_faults import wait_for
from tests.server.tools.test_tools import call
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import anvyl


@pytest.fixture
async def memory(engine: RealEngine) -> AsyncIterator[Client]:
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as opened:
        yield opened


def _odd_containers(engine: RealEngine) -> None:
    """One container per kind of problem, and one without."""
    always = {"Name": "always"}
    engine.run("web")
    engine.run("looper", ["sh", "-c", "sleep 0.2; exit 3"], restart_policy=always)
    engine.run("paused1")
    engine.api.pause("paused1")
    engine.run("crashed", ["sh", "-c", "exit 7"])
    engine.run("stopped", restart_policy=always)
    engine.api.stop("stopped", timeout=0)
    engine.run("done", ["true"])
    wait_for(lambda: engine.api.inspect_container("looper")["RestartCount"] >= 2)
    wait_for(lambda: engine.state("done") == engine.state("crashed") == "exited")


async def test_a_list_shows_the_problem_of_each_container(memory: Client, engine: RealEngine) -> None:
    await anyio.to_thread.run_sync(_odd_containers, engine)

    found = {one["name"]: one["problem"] for one in (await call(memory, "list_containers", all=True))["containers"]}

    # A stop without grace is SIGTERM and SIGKILL at once: either may end it.
    code = engine.api.inspect_container("stopped")["State"]["ExitCode"]
    assert found.pop("looper").startswith("keeps restarting: ")
    assert found == {
        "web": "",
        "paused1": "paused",
        "crashed": "exited with code 7",
        "stopped": f"stopped (exit code {code}) although its restart policy is always",
        "done": "",
    }
    [text] = (await memory.call_tool("list_containers", {"all": True})).content
    assert isinstance(text, TextContent)
    assert "problem: crashed exited with code 7" in text.text
    assert "problem: paused1" not in text.text, "the state shows it already"


async def test_a_crash_loop_is_reported_also_while_the_container_is_up(memory: Client, engine: RealEngine) -> None:
    engine.run("looper", ["sh", "-c", "sleep 1; exit 3"], restart_policy={"Name": "always"})
    await anyio.to_thread.run_sync(
        wait_for,
        lambda: (state := engine.api.inspect_container("looper"))["RestartCount"] >= 2 and state["State"]["Running"],
    )

    [row] = (await call(memory, "list_containers", all=True))["containers"]

    assert row["problem"].startswith("keeps restarting")


async def test_a_container_stopped_through_anvyl_is_no_problem_and_a_started_one_should_run(
    memory: Client, engine: RealEngine
) -> None:
    engine.run("web", restart_policy={"Name": "always"})
    engine.create("job", ["true"])
    await call(memory, "stop_container", name="web", timeout=0)
    await call(memory, "start_container", name="job")
    await anyio.to_thread.run_sync(wait_for, lambda: engine.state("job") == "exited")

    rows = {one["name"]: one for one in (await call(memory, "list_containers", all=True))["containers"]}

    assert (rows["web"]["problem"], rows["web"]["expected"]) == ("", "stopped")
    assert rows["job"]["problem"] == "stopped (exit code 0) although it should be running"


def test_everything_is_not_ok_while_a_container_has_a_problem(engine: RealEngine) -> None:
    _odd_containers(engine)

    lines = anvyl("ask", "--offline", "is everything ok?", "--json").json["answer"].splitlines()

    assert lines[0].startswith("Not well: looper on ")
    assert "keeps restarting" in lines[0]
    assert "paused" in lines[0]
    assert "Nothing looks wrong." not in lines
    assert "1 paused, 3 stopped on " in lines[1]


def test_free_disk_space_is_the_space_available_to_users(engine: RealEngine) -> None:
    """As in `df`: a file system's reserve is not free, and the percentage is of the usable space."""
    disks = anvyl("call", "get_host_resources", "--json").json["hosts"]
    [answer] = disks.values()
    for disk in answer["result"]["disks"]:
        figures = os.statvfs(disk["mount"])
        available, used = figures.f_bavail * figures.f_frsize, (figures.f_blocks - figures.f_bfree) * figures.f_frsize
        assert disk["free"] == pytest.approx(available, rel=0.02)
        assert disk["percent"] == pytest.approx(100 * used / (used + available), abs=1)


def test_a_host_whose_engine_is_off_is_not_ok(engine: RealEngine) -> None:
    checked = anvyl("hosts", "check", "--json", DOCKER_HOST="unix:///nonexistent/docker.sock").json

    [host] = checked["hosts"].values()
    assert not host["ok"]
    assert host["status"].startswith("degraded: ")
