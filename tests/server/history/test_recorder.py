"""The recorder of a serving host, with an engine that hangs."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.engine import engine
from anvyl_mcp.server.engine.engine import MAX_CONCURRENT_READS


@contextmanager
def hanging_engine(path: Path) -> Iterator[Callable[[], int]]:
    """An engine that accepts connections and never answers; yields a function that counts the requests that wait."""
    opened: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        listener.setblocking(False)

        def count() -> int:
            with suppress(BlockingIOError):
                while True:
                    opened.append(listener.accept()[0])
            return sum(map(has_request, opened))

        try:
            yield count
        finally:
            count()
            for one in opened:
                one.close()


def has_request(connection: socket.socket) -> bool:
    """Whether a request was sent and the sender still waits."""
    with suppress(BlockingIOError):
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    return False


async def test_the_recorder_adds_no_threads_that_wait_for_a_hanging_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    monkeypatch.setattr(engine, "SLOT_CHECK_SECONDS", 0.2)
    caplog.set_level(logging.DEBUG, "anvyl_mcp.server.history.recorder")
    async with (
        aclosing(Node(load(), serving=True)) as node,
        Client(node.server) as client,
        anyio.create_task_group() as calls,
    ):
        with hanging_engine(tmp_path / "docker.sock") as waiting, anyio.fail_after(10):
            for _ in range(MAX_CONCURRENT_READS + 2):
                calls.start_soon(client.call_tool, "list_containers", {})
            while waiting() < MAX_CONCURRENT_READS:  # noqa: ASYNC110  the engine has no event
                await anyio.sleep(0.01)
            recorder = node.recorder()
            async with recorder.run():
                await anyio.to_thread.run_sync(recorder.tick)
                while "cannot be followed" not in caplog.text:  # noqa: ASYNC110  a thread's log has no event
                    await anyio.sleep(0.01)
            assert waiting() == MAX_CONCURRENT_READS
