"""Commands and Python examples of the older design work unchanged, apart from `anvyl_mcp` in the imports."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import anvyl_mcp
from anvyl_mcp import agent
from anvyl_mcp.agent import AgentManager, HostAgent, create_agent_manager
from anvyl_mcp.core.errors import AnvylError, Conflict, InvalidInput, UnknownHost
from anvyl_mcp.core.settings import load
from tests.support.hosts.nodes import ANVYL, NO_MODEL, ServingNode, anvyl, run_program, running_node, write_hosts_file

NOTHING = "unix:///nonexistent/docker.sock"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    """A host that the tests add as host-123."""
    with running_node(
        "other", tmp_path_factory.mktemp("other"), ANVYL_LMSTUDIO_URL=NO_MODEL, DOCKER_HOST=NOTHING
    ) as node:
        yield node


# --- Python ---


EXAMPLE = """
import asyncio
from anvyl_mcp.agent import create_agent_manager

async def main():
    agent_manager = create_agent_manager(
        lmstudio_url="http://127.0.0.1:1/v1",
        lmstudio_model="llama-3.2-3b-instruct",
        port={port},
    )
    await agent_manager.start()

    agent = agent_manager.agent
    result = await agent.process_query("List all containers")
    assert isinstance(result, str)
    result = await agent.query_remote_host("host-123", "Get host resources")
    assert isinstance(result, str)
    agent.add_known_host("host-123", "192.168.1.100")
    hosts = agent.get_known_hosts()
    assert hosts == {{"host-123": "192.168.1.100"}}
    results = await agent.broadcast_to_all_hosts("System health check")
    for result in results:
        print(f"Host {{result['host_id']}}: {{result['result']}}")

asyncio.run(main())
"""


def test_the_example_runs_twice_unchanged(free_port: int) -> None:
    """It is not stopped at the end, as in the example; the second run uses the data of the first."""
    for _ in range(2):
        done = run_program("-c", EXAMPLE.format(port=free_port), program=sys.executable)

        assert done.code == 0, done.err
        assert "Host host-123: host-123: not paired yet" in done.out, done.out
        assert "anvyl-mcp invite" in done.out
        assert "never" not in done.err and "Task" not in done.err, done.err


def manager(port: int) -> AgentManager:
    return create_agent_manager(lmstudio_url=NO_MODEL, port=port, name="mine")


async def test_start_returns_when_the_server_answers_and_it_serves_until_stopped(free_port: int) -> None:
    mine = manager(free_port)
    await mine.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{free_port}") as client:
            assert (await client.get("/health")).json()["service"] == "anvyl"
            assert (await client.get("/agent/info")).json()["host_id"] == mine.agent.host_id == "mine"
            with pytest.raises(Conflict, match="already"):
                await mine.start()
            assert "mine" in await mine.agent.process_query("host info")
    finally:
        await mine.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", free_port)
    await mine.stop()
    async with mine as again:
        assert again.urls == [f"http://127.0.0.1:{free_port}"]


async def test_start_reports_a_port_in_use(other: ServingNode) -> None:
    mine = manager(other.port)

    with pytest.raises(Conflict, match="in use"):
        await mine.start()

    await mine.stop()


async def test_signal_handlers_of_the_program_are_kept(free_port: int) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async with manager(free_port):
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_it_does_not_block_a_running_event_loop(free_port: int) -> None:
    ticks: list[int] = []

    async def tick() -> None:
        while True:
            ticks.append(1)
            await asyncio.sleep(0)

    async with manager(free_port) as mine:
        other_work = asyncio.create_task(tick())
        await mine.agent.process_query("host info")
        before = len(ticks)
        await asyncio.sleep(0.01)
        assert len(ticks) > before
        other_work.cancel()


async def test_an_agent_answers_without_being_served() -> None:
    agent = HostAgent(load({"name": "mine"}))
    try:
        assert "mine" in await agent.process_query("host info")
        assert "no tool fits" in await agent.process_query("make me a sandwich")
        with pytest.raises(AnvylError, match="no tool fits"):
            await agent.ask("make me a sandwich")
    finally:
        await agent.aclose()


async def test_known_hosts_are_saved_and_queried(other: ServingNode) -> None:
    agent = HostAgent(load({"name": "mine"}))
    try:
        agent.add_known_host("host-123", "127.0.0.1", other.port)
        agent.add_known_host("host-123", "127.0.0.1", other.port)
        agent.add_known_host("far", "192.168.1.100")
        agent.add_known_host("far", "192.168.1.101")
        assert HostAgent().get_known_hosts() == {"host-123": "127.0.0.1", "far": "192.168.1.101"}
        with pytest.raises(Conflict):
            agent.add_known_host("host-123", "127.0.0.1", 1)
        with pytest.raises(InvalidInput):
            agent.add_known_host("metadata", "169.254.169.254")
        assert "other" in await agent.query_remote_host("host-123", "Get host resources")
        results = {one["host_id"]: one for one in await agent.broadcast_to_all_hosts("host info")}
        assert "other" in results["host-123"]["result"] and results["far"]["error"]["code"] == "unpaired"
        agent.remove_known_host("far")
        assert "there is no host `far`" in await agent.query_remote_host("far", "host info")
        with pytest.raises(UnknownHost):
            agent.remove_known_host("far")
    finally:
        await agent.aclose()


async def test_a_change_needs_approval_in_python_too(tmp_path: Path) -> None:
    agent = HostAgent(load({"name": "mine"}))
    try:
        asked = await agent.ask(f"run command touch {tmp_path / 'done'}")
        assert not (tmp_path / "done").exists()
        assert "Nothing was changed" in asked["response"]
        done = await agent.approve(asked["approval"]["id"])
        assert (tmp_path / "done").exists() and done["calls"][0]["ok"]
    finally:
        await agent.aclose()


async def test_debug_logging_shows_each_call(caplog: pytest.LogCaptureFixture) -> None:
    agent = HostAgent(load({"name": "mine"}))
    with caplog.at_level(logging.DEBUG):
        await agent.process_query("host info")
    await agent.aclose()

    for said in ("asked: host info", "get_host_info on mine: ok", "answered by rules"):
        assert said in caplog.text


def test_the_package_exports_the_api_lazily() -> None:
    assert anvyl_mcp.create_agent_manager is agent.create_agent_manager
    assert anvyl_mcp.HostAgent is agent.HostAgent
    assert set(anvyl_mcp.__all__) == {"HostAgent", "__version__", "create_agent_manager"}
    with pytest.raises(AttributeError):
        _ = anvyl_mcp.nothing
    code = "import sys, anvyl_mcp; sys.exit('anvyl_mcp.agent' in sys.modules or 'anyio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- commands ---


@pytest.mark.parametrize(
    "words",
    [("query-remote", "host-123", "Get host resources"), ("process", "Get host resources", "--host-id", "host-123")],
)
def test_a_command_queries_the_agent_of_another_host(words: tuple[str, ...], other: ServingNode) -> None:
    write_hosts_file("host-123", other.url)

    done = anvyl("agent", *words)
    assert (done.code, done.out.splitlines()[0]) == (0, "other:"), done.err

    document = anvyl("agent", *words, "--json").json
    assert (document["host_id"], document["via"], document["error"]) == ("host-123", "agent", None)


def test_process_is_an_alias_of_ask() -> None:
    done = anvyl("agent", "process", "host info", "--json")

    assert (done.code, done.json["question"], done.json["mode"]) == (0, "host info", "rules")


def test_a_change_on_another_host_is_pending_and_approved_by_command(other: ServingNode, tmp_path: Path) -> None:
    write_hosts_file("host-123", other.url, other.token)
    file = tmp_path / "done"

    asked = anvyl("agent", "query-remote", "host-123", f"run command touch {file}", "--json")
    assert asked.code == 5 and not file.exists()
    assert f"anvyl agent approve {asked.json['approval']['id']}" in asked.err

    done = anvyl("agent", "approve", asked.json["approval"]["id"])
    assert done.code == 0 and file.exists(), done.err
    again = anvyl("agent", "approve", asked.json["approval"]["id"], "--json")
    assert (again.code, again.json["error"]["code"]) == (1, "gone")


def test_yes_on_the_command_line_approves_on_the_other_host(other: ServingNode, tmp_path: Path) -> None:
    write_hosts_file("host-123", other.url, other.token)

    done = anvyl("agent", "query-remote", "host-123", f"run command touch {tmp_path / 'done'}", "--yes")

    assert done.code == 0 and (tmp_path / "done").exists(), done.err


def test_the_broadcast_command_names_failed_hosts(other: ServingNode) -> None:
    Path(os.environ["ANVYL_HOME"], "hosts.toml").write_text(
        f'[hosts.host-123]\nurl = "{other.url}"\n[hosts.down]\nurl = "http://127.0.0.1:1"\n', encoding="utf-8"
    )

    done = anvyl("agent", "broadcast", "host info")
    assert done.code == 3 and "other" in done.out and "down: connection refused" in done.err

    results = anvyl("agent", "broadcast", "host info", "--json").json["results"]
    assert [(one["host_id"], "error" in one) for one in results[1:]] == [("host-123", False), ("down", True)]


def test_a_broadcast_without_other_hosts_asks_this_host() -> None:
    results = anvyl("agent", "broadcast", "host info", "--json").json["results"]

    assert len(results) == 1 and results[0]["result"]


def test_the_info_and_hosts_commands(other: ServingNode) -> None:
    write_hosts_file("host-123", other.url)

    document = anvyl("agent", "info", "--json").json
    assert (document["known_hosts"], document["status"], document["error"]) == (["host-123"], "stopped", None)
    assert "status" in anvyl("agent", "info").out
    assert set(anvyl("agent", "hosts", "--json").json["hosts"]) >= {"host-123"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("query-remote", "nowhere", "host info"), 2),
        (("approve", "x"), 1),
        (("process", "make me a sandwich"), 4),
        (("query-remote", "down", "host info"), 1),
    ],
)
def test_errors_have_an_exit_code_and_a_message(words: tuple[str, ...], code: int) -> None:
    write_hosts_file("down", "http://127.0.0.1:1")

    done = anvyl("agent", *words)

    assert done.code == code and "error:" in done.err


def test_start_serves_on_one_port_until_it_is_stopped(free_port: int, tmp_path: Path) -> None:
    with subprocess.Popen(
        [ANVYL, "agent", "start", "--port", str(free_port)], stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as started:
        assert started.stderr is not None
        try:
            assert f"http://127.0.0.1:{free_port}" in started.stderr.readline()
            assert httpx.get(f"http://localhost:{free_port}/health").json()["service"] == "anvyl"
            assert json.loads(run_program("agent", "info", "--json").out)["status"] == "running"
        finally:
            started.terminate()
        assert started.wait(20) == 0
