"""A hundred hosts, ten of them silent, and twenty thousand calls: slow tests, only with `scripts/test --long`."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from anvyl_mcp.app.node import open_node
from anvyl_mcp.core.settings import load
from anvyl_mcp.peers.fleet.fleet import Fleet
from tests.support.engine.engines import RealEngine
from tests.support.hosts.many_hosts import hosts_file
from tests.support.toy_server import black_hole

pytestmark = pytest.mark.long

HOSTS, SILENT = 100, 10
CALLS, AT_ONCE, FIRST = 20_000, 16, 4_000
MEGABYTE = 1024**2


@contextmanager
def hosts(count: int, home: Path) -> Iterator[dict[str, Any]]:
    """Run hosts in one process; see `many_hosts`."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.hosts.many_hosts", str(count)],
        env={**os.environ, "ANVYL_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield {**json.loads(process.stdout.readline()), "process": process.pid}
        finally:
            process.stdin.close()
            process.wait(20)


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "official"])
async def test_a_hundred_hosts_of_which_ten_hang_answer_within_five_seconds(
    engine: RealEngine, tmp_path: Path, lean: bool
) -> None:
    engine.run("web")
    with ExitStack() as stack:
        many = stack.enter_context(hosts(HOSTS, tmp_path / "many"))
        holes = [stack.enter_context(black_hole()).replace("http:", "https:") for _ in range(SILENT)]
        urls = many["urls"][: HOSTS - SILENT] + [hole.removesuffix("/mcp") for hole in holes]
        (tmp_path / "hosts.toml").write_text(hosts_file(urls, many["pin"], many["token"]), encoding="utf-8")
        async with open_node(load(), lean=lean) as node:
            names = node.fleet.hosts[1:]

            began = time.monotonic()
            done = await node.fleet.call_many(names, "list_containers", {})
            took = time.monotonic() - began
            began = time.monotonic()
            again = await node.fleet.call_many(names, "list_containers", {})
            second = time.monotonic() - began

    words = [outcome.word for outcome in done.values()]
    assert (words.count("ok"), words.count("unreachable")) == (HOSTS - SILENT, SILENT)
    assert [outcome.word for outcome in again.values()] == words
    assert took <= 5
    assert second <= 3


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "official"])
async def test_memory_and_descriptors_stay_flat_over_twenty_thousand_calls(tmp_path: Path, lean: bool) -> None:
    """Over TLS, with a token and the audit log; measured on both sides after the first fifth."""
    with hosts(3, tmp_path / "many") as many:
        (tmp_path / "hosts.toml").write_text(hosts_file(many["urls"], many["pin"], many["token"]), encoding="utf-8")
        sides = [psutil.Process(), psutil.Process(many["process"])]
        async with open_node(load(), lean=lean) as node:
            await spend(node.fleet, FIRST)
            before = [measured(side) for side in sides]
            await spend(node.fleet, CALLS - FIRST)
            after = [measured(side) for side in sides]

    for (memory, descriptors, threads), (more_memory, more_descriptors, more_threads) in zip(
        before, after, strict=True
    ):
        assert more_memory - memory < 8 * MEGABYTE
        assert more_descriptors - descriptors <= 8
        assert more_threads - threads <= 8


async def spend(fleet: Fleet, calls: int) -> None:
    """Call each host in turn, several at once; all calls succeed."""
    names, left = fleet.hosts[1:], calls

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            outcome = await fleet.call(names[left % len(names)], "get_host_resources", {})
            assert outcome.ok, outcome.status

    async with anyio.create_task_group() as group:
        for _ in range(AT_ONCE):
            group.start_soon(worker)


def measured(process: psutil.Process) -> tuple[int, int, int]:
    """Return bytes of memory, open descriptors and threads."""
    gc.collect()
    return process.memory_info().rss, process.num_fds(), process.num_threads()
