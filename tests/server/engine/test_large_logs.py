"""Logs of any size and rate are read in little memory and time."""

from __future__ import annotations

import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio.to_thread
import psutil
import pytest
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.engine.logs import reader
from anvyl_mcp.server.engine.logs.frames import parse_lines
from tests.support.engine.engines import RealEngine
from tests.support.engine.fake_engine import STAMP, FakeEngine, frames

MIB = 1024**2


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "e.sock") as started:
        monkeypatch.setenv("DOCKER_HOST", started.url)
        yield started


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as opened:
        yield opened


async def logs(client: Client, name: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool("get_container_logs", {"name": name, **arguments})
    assert not result.is_error, result.content
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def test_both_streams_of_a_container_are_read(fake: FakeEngine, client: Client) -> None:
    fake.add("web", log=frames((1, "one\n"), (2, "oops\n"), (1, "two\n")))

    assert (await logs(client, "web"))["lines"] == ["one", "oops", "two"]


async def test_the_parts_of_a_split_line_are_joined(fake: FakeEngine, client: Client) -> None:
    fake.add("web", log=frames((1, "a" * 10), (2, "oops\n"), (1, "b" * 10), (1, "c\n"), (1, "next\n")))

    assert (await logs(client, "web"))["lines"] == ["oops", "a" * 10 + "b" * 10 + "c", "next"]


async def test_a_terminal_has_no_frames(fake: FakeEngine, client: Client) -> None:
    fake.add("shell", tty=True, log=f"{STAMP.format(0)} one\r\n{STAMP.format(1)} two".encode())

    read = await logs(client, "shell")

    assert (read["lines"], read["next_since"]) == (["one", "two"], STAMP.format(1))


async def test_a_very_long_line_is_cut_with_a_count(fake: FakeEngine, client: Client) -> None:
    fake.add("web", log=frames(*[(1, "x" * 16_000)] * 20, (1, "\n"), (1, "next\n")))

    lines = (await logs(client, "web"))["lines"]

    assert lines[0] == "x" * 4096 + f"… {320_000 - 4096} more characters"
    assert lines[1] == "next"


@pytest.mark.parametrize("data", [b"no frames at all, but long enough", b"\x09\0\0\0\0\0\0\x05hello"])
async def test_a_log_in_an_unknown_format_is_an_engine_error(data: bytes, fake: FakeEngine, client: Client) -> None:
    fake.add("web", log=data)

    result = await client.call_tool("get_container_logs", {"name": "web"})

    assert result.is_error and "cannot be parsed" in str(result.content)


@pytest.mark.parametrize(
    ("fault", "message"),
    [("500", "the Docker engine failed to show its log"), ("cut", "closed the connection"), ("409", "injected")],
)
async def test_a_log_that_cannot_be_read_names_the_reason(
    fault: str, message: str, fake: FakeEngine, client: Client
) -> None:
    fake.add("web", log=frames((1, "one\n"), (1, "two\n")))
    fake.fault("GET .*/logs", fault)

    result = await client.call_tool("get_container_logs", {"name": "web"})

    assert result.is_error and message in str(result.content), result.content


@pytest.mark.parametrize(
    ("limit", "value", "found", "message"),
    [
        ("MAX_SEARCHED_LINES", 2, ["two"], "only the last 2 lines were searched"),
        ("READ_SECONDS", -1, [], f"lines after {STAMP.format(0)} were not read"),
    ],
    ids=["a long log", "a slow engine"],
)
async def test_an_incomplete_search_is_noted(
    limit: str,
    value: int,
    found: list[str],
    message: str,
    fake: FakeEngine,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty result of a partial search does not mean that the log has no match."""
    fake.add("web", log=frames((1, "one\n"), (1, "two\n"), (1, "three\n")))
    monkeypatch.setattr(reader, limit, value)

    read = await logs(client, "web", grep="two")

    assert (read["lines"], read["truncated"], message in read["note"]) == (found, True, True)


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 4096])
def test_frames_may_be_split_anywhere(size: int) -> None:
    whole = frames((1, "one"), (2, "err\n"), (1, " and two\n"), (1, "\n"), (2, "last"))

    chunks = [whole[at : at + size] for at in range(0, len(whole), size)]

    assert [line.text for line in parse_lines(chunks, raw=False)] == [b"err", b"one and two", b"", b"last"]


def test_a_frame_with_a_huge_length_is_not_buffered() -> None:
    head = struct.pack(">BxxxL", 1, 2**32 - 1) + STAMP.format(0).encode() + b" "
    before = psutil.Process().memory_info().rss

    lines = list(parse_lines((head if number == 0 else b"x" * 65_536 for number in range(2_000)), raw=False))

    assert lines[0].dropped_bytes > 100_000_000
    assert psutil.Process().memory_info().rss - before < 20 * MIB


@pytest.mark.parametrize("tty", [False, True], ids=["frames", "terminal"])
@pytest.mark.parametrize("size", [50 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.long)], ids=["50M", "1G"])
async def test_the_end_of_a_big_log_is_read_fast(size: int, tty: bool, engine: RealEngine, client: Client) -> None:
    """Fault table row 25: 1 GB in at most 2 s, with less than 50 MB of growth."""
    script = f"yes 012345678901234567890123456789012345678901234567890123456789 | head -c {size}; echo; echo done"
    made = engine.api.create_container("busybox:latest", name="big", command=["sh", "-c", script], tty=tty)
    engine.api.start(made)
    await anyio.to_thread.run_sync(lambda: engine.api.wait("big", timeout=500))
    await logs(client, "big", tail=1)
    before, began = psutil.Process().memory_info().rss, time.monotonic()

    read = await logs(client, "big", tail=100)
    took = time.monotonic() - began
    found = await logs(client, "big", grep="done")

    assert (len(read["lines"]), read["lines"][-1], read["truncated"]) == (100, "done", True)
    assert found["lines"] == ["done"]
    assert took <= 2
    assert psutil.Process().memory_info().rss - before < 50 * MIB


async def test_reading_a_log_that_never_stops_ends(engine: RealEngine, client: Client) -> None:
    engine.run("loud", ["yes", "x" * 100])
    await logs(client, "loud", tail=1)
    before, began = psutil.Process().memory_info().rss, time.monotonic()

    read = await logs(client, "loud", tail=5000)
    found = await logs(client, "loud", grep="x", tail=10)
    took = time.monotonic() - began

    assert 0 < len(read["lines"]) <= 5000 and read["truncated"]
    assert len(found["lines"]) == 10
    assert took < 14
    assert psutil.Process().memory_info().rss - before < 50 * MIB
