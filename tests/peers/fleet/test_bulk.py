"""Bulk changes are paced to the limits of the hosts, need one approval, and failures are listed by name."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from anvyl_mcp.core import protocol_keys
from anvyl_mcp.peers.connection.listing import ToolAnswer, ToolListing
from anvyl_mcp.peers.fleet import pacing
from anvyl_mcp.peers.fleet.pacing import Pacer
from tests.support.hosts.lab import Lab, LabHost


def fill(hosts: Mapping[LabHost, list[str]], labels: Mapping[str, str] | None = None) -> None:
    """Run containers on all hosts concurrently."""

    def run(host: LabHost) -> None:
        for name in hosts[host]:
            host.engine.run(name, labels=labels)

    with ThreadPoolExecutor(len(hosts)) as threads:
        list(threads.map(run, hosts))


def starts(host: LabHost) -> dict[str, str]:
    """Return when each container of a host was last started."""
    every = [str(one["Names"][0]).lstrip("/") for one in host.engine.api.containers(all=True)]
    return {name: host.engine.api.inspect_container(name)["State"]["StartedAt"] for name in every}


@pytest.mark.parametrize(
    ("first", "second"),
    [(3 * protocol_keys.CHANGES_AT_ONCE, 4), pytest.param(24, 16, marks=pytest.mark.long)],
    ids=["sixteen", "forty"],
)
def test_many_containers_on_two_paired_hosts_restart_with_one_command(lab: Lab, first: int, second: int) -> None:
    """Regression: a rate limit let only four of seven restarts through; the others were not named, exit code 0."""
    h1, h2, _ = lab.hosts
    names = {h1: [f"a{number:02}" for number in range(first)], h2: [f"b{number:02}" for number in range(second)]}
    fill(names)
    before = starts(h1), starts(h2)

    done = lab.anvyl("ask", "restart everything on h1 and h2", "--yes", "--json")

    after = starts(h1), starts(h2)
    assert (done.code, done.json["error"]) == (0, None), done.err
    assert done.json["hosts"] == {"h1": "ok", "h2": "ok"}
    assert {(call["host"], call["arguments"]["name"]) for call in done.json["calls"]} == {
        (host.name, name) for host in names for name in names[host]
    }
    assert all(after[place][name] > before[place][name] for place in (0, 1) for name in before[place])
    assert f"Restarted {first + second} containers" in done.json["answer"]

    # The host is at its limit now: every interface names the changes that were not made.
    fill({h1: ["locked-1", "locked-2", "locked-3"]}, {"anvyl.protect": "true"})
    mixed = ["a00", "locked-1", "a01", "locked-2", "locked-3"]
    direct = lab.anvyl("restart", *mixed, "--host", "h1", "--yes", "--json")
    asked = lab.anvyl("ask", "restart a00 and locked-1 on h1", "--yes")

    failed = {call["arguments"]["name"] for call in direct.json["calls"] if not call["ok"]}
    assert direct.code == 3 and failed == {"locked-1", "locked-2", "locked-3"}
    assert direct.json["error"]["code"] == "incomplete"
    assert all(name in direct.json["error"]["message"] for name in failed)
    assert asked.code == 3
    assert "Could not restart locked-1 on h1" in asked.out and "Restarted a00 on h1." in asked.out

    # Stopped containers are included only if named, and a container called `all` does not mean all containers.
    h1.engine.api.stop("a00", timeout=1)
    running = lab.anvyl("ask", "restart everything on h1", "--dry-run")
    for including in ("restart everything, even the stopped ones, on h1", "restart all on h1, also the stopped ones"):
        every = lab.anvyl("ask", including, "--dry-run")
        assert every.code == 0 and "a00" in every.out and "a01" in every.out, (including, every.out, every.err)
    assert "a00" not in running.out and "a01" in running.out
    one = lab.anvyl("ask", "stop the container all on h1", "--dry-run")
    assert one.code == 1 and one.out == "" and "no host has a container `all`" in one.err


async def test_changes_wait_for_a_slot_while_the_host_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve slow changes: none is sent while the maximum number is under way."""
    monkeypatch.setattr(pacing, "ROOM_SECONDS", 0.1)
    change = ToolListing("restart_container", "", {}, safety="changes", scope="operate", seconds=20)
    pace, under_way, most = Pacer(), 0, 0

    async def restart() -> ToolAnswer:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await anyio.sleep(0.07)
        under_way -= 1
        return ToolAnswer({})

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for _ in range(3 * protocol_keys.CHANGES_AT_ONCE):
                group.start_soon(pace.run, change, restart)

    assert most == protocol_keys.CHANGES_AT_ONCE


async def test_waiting_changes_are_sent_if_the_host_answers_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a hanging host is noticed after one wait, however many changes there are."""
    monkeypatch.setattr(pacing, "ROOM_SECONDS", 0.1)
    change = ToolListing("restart_container", "", {}, safety="changes", scope="operate", seconds=20)
    pace, sent = Pacer(), 0
    all_sent = anyio.Event()

    async def hang() -> ToolAnswer:
        nonlocal sent
        sent += 1
        if sent == 3 * protocol_keys.CHANGES_AT_ONCE:
            all_sent.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with anyio.create_task_group() as group:
        for _ in range(3 * protocol_keys.CHANGES_AT_ONCE):
            group.start_soon(pace.run, change, hang)
        with anyio.fail_after(5):
            await all_sent.wait()
        group.cancel_scope.cancel()
