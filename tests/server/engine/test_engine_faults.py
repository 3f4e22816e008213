"""Every fault of the engine becomes one sentence with a next step, in time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import CallToolResult, TextContent

from anvyl_mcp.app.node import Node
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.engine.engine import MAX_CONCURRENT_READS
from anvyl_mcp.server.swarm import membership
from tests.support.engine.fake_engine import FakeEngine

LIST, INSPECT, START = "GET /containers/json", "GET /containers/web/json", "POST /containers/.*/start"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "e.sock") as started:
        monkeypatch.setenv("DOCKER_HOST", started.url)
        yield started


@pytest.fixture
async def client(fake: FakeEngine, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Client]:
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as opened:
        yield opened
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def refused(client: Client, tool: str, **arguments: Any) -> dict[str, str]:
    """The error of a call that must fail: code, message and hint."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error and result.meta is not None, result
    error: dict[str, str] = result.meta[protocol_keys.ERROR]
    assert error["message"] and "\n" not in error["message"] and "Traceback" not in text_of(result)
    return error


async def succeeded(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text_of(result)
    assert isinstance(result.structured_content, dict)
    return result.structured_content


def text_of(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("404", "not_found", "injected"),
        ("409", "conflict", "injected"),
        ("500", "engine_error", "the Docker engine failed: injected"),
        ("503", "engine_error", "the Docker engine failed: injected"),
        ("garbage", "engine_error", "cannot be parsed"),
        ("shape", "engine_error", "cannot be parsed"),
        ("cut", "engine_error", "closed the connection"),
        ("close", "engine_error", "closed the connection"),
    ],
)
async def test_a_failed_list_call_names_the_reason(
    fault: str, code: str, message: str, fake: FakeEngine, client: Client
) -> None:
    fake.add("web")
    fake.fault(LIST, fault)

    error = await refused(client, "list_containers")

    assert (error["code"], message in error["message"]) == (code, True), error
    assert error["hint"] or code in ("not_found", "conflict")


@pytest.mark.parametrize(("fault", "times"), [("garbage", 1), ("shape", 1), ("cut", 2), ("close", 2), ("500", 2)])
async def test_a_failed_inspect_or_version_request_names_the_reason(
    fault: str, times: int, fake: FakeEngine, client: Client
) -> None:
    fake.add("web")
    fake.fault("GET /version", fault, times=times)

    assert (await refused(client, "list_containers"))["code"] == "engine_error"
    assert (await succeeded(client, "list_containers"))["total"] == 1
    fake.fault("GET /containers/.*/json", fault)
    assert (await refused(client, "get_container_info", name="web"))["code"] == "engine_error"


@pytest.mark.parametrize("fault", ["500", "cut", "close"])
async def test_a_read_that_fails_once_is_retried(fault: str, fake: FakeEngine, client: Client) -> None:
    fake.add("web")
    fake.fault(LIST, fault, times=1)

    assert (await succeeded(client, "list_containers"))["total"] == 1
    assert fake.requests.count(LIST) == 2


async def test_a_change_that_fails_is_not_retried(fake: FakeEngine, client: Client) -> None:
    fake.add("web", state="exited")
    fake.fault(START, "500", times=1)

    error = await refused(client, "start_container", name="web")

    assert error["message"] == f"the Docker engine failed to start `web`: {_injected(fake)}"
    assert _changes(fake) == 1


@pytest.mark.parametrize(
    ("fault", "state", "changes"), [("lost", "running", 1), ("close", "exited", 0)], ids=["done", "not-done"]
)
async def test_a_change_with_a_lost_response_is_unknown_and_the_state_is_shown(
    fault: str, state: str, changes: int, fake: FakeEngine, client: Client
) -> None:
    box = fake.add("web", state="exited")
    fake.fault(START, fault)

    error = await refused(client, "start_container", name="web")

    assert error["code"] == "unknown"
    assert error["message"].endswith(f"to start `web`: it may or may not have happened; it is {state} now")
    assert (box.changes, _changes(fake)) == (changes, 1)


async def test_a_removal_with_a_lost_response_shows_whether_the_container_exists(
    fake: FakeEngine, client: Client
) -> None:
    fake.add("web", state="exited")
    fake.fault("DELETE .*", "lost")

    assert (await refused(client, "remove_container", name="web"))["message"].endswith("it does not exist now")


@pytest.mark.parametrize("fault", ["lost", "garbage", "cut"])
async def test_a_creation_with_a_lost_response_is_unknown(fault: str, fake: FakeEngine, client: Client) -> None:
    fake.fault("POST /containers/create", fault)

    error = await refused(client, "create_container", image="busybox", name="app")

    assert (error["code"], "it is created now" in error["message"]) == ("unknown", True), error
    assert fake.requests.count("POST /containers/create") == 1


async def test_an_engine_that_is_down_fails_at_once_and_is_found_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault table row 8: at most 0.5 s."""
    path = tmp_path / "late.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:
        for _ in range(2):
            began = time.monotonic()
            assert (await refused(client, "list_containers"))["code"] == "engine_missing"
            assert time.monotonic() - began < 0.5
            await succeeded(client, "get_host_resources")
            with FakeEngine(path) as fake:
                fake.add("web")
                assert (await succeeded(client, "list_containers"))["total"] == 1


@pytest.mark.parametrize("fault", ["hang", "slow"])
async def test_an_engine_that_hangs_times_out_in_five_seconds(fault: str, fake: FakeEngine, client: Client) -> None:
    """Fault table row 9: at most 5.2 s; the next call does not wait again; it recovers without help."""
    fake.add("web")
    await succeeded(client, "list_containers")
    fake.fault("GET .*", fault)

    began = time.monotonic()
    error = await refused(client, "list_containers")
    took = time.monotonic() - began
    await refused(client, "list_containers")
    again = time.monotonic() - began - took

    assert (error["code"], error["message"]) == ("timeout", "the Docker engine does not answer")
    assert took < 5.2
    assert again < 2
    fake.faults.clear()
    assert (await succeeded(client, "list_containers"))["total"] == 1


async def test_a_hung_engine_holds_few_threads_and_the_host_still_answers(
    fake: FakeEngine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault table row 9: not more than 8 threads stuck, also while clients list the tools."""
    monkeypatch.setattr(membership, "FRESH_SECONDS", -1)
    await succeeded(client, "list_containers")
    await succeeded(client, "get_host_resources")
    fake.fault("GET .*", "hang")
    fake.requests.clear()
    fake.arrived = threading.Semaphore(0)
    codes: list[str] = []

    async def ask() -> None:
        codes.append((await refused(client, "list_containers"))["code"])

    with anyio.fail_after(9):
        async with anyio.create_task_group() as callers:
            for _ in range(24):
                callers.start_soon(ask)
            for _ in range(MAX_CONCURRENT_READS):
                await anyio.to_thread.run_sync(fake.arrived.acquire)
            began = time.monotonic()
            await succeeded(client, "get_host_resources")
            assert (await client.list_tools(cache_mode="bypass")).tools
            assert time.monotonic() - began < 2
            assert len(fake.requests) <= 8
    assert codes == ["timeout"] * 24


def _injected(fake: FakeEngine) -> str:
    """The fake engine's message, with shortened ids."""
    box = next(iter(fake.containers.values()))
    return f"injected for /containers/{box.id[:12]}/start"


def _changes(fake: FakeEngine) -> int:
    return sum(request.startswith("POST") for request in fake.requests)
