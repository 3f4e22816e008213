"""What becomes of a fleet when a host, its network or its engine fails: each fault with the bound users are promised.

The numbers in the names are those of the fault table's rows. Bounds are asserted on what a
program waits for, in this process; a command's own start, which depends on how busy the machine is, comes on top.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

from anvyl_mcp.peers.fleet import Fleet, Outcome
from tests.lab import PORT, Lab, LabHost

READ = "list_containers"
CONNECTING = 3.2


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """A bound of the fault table."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began <= seconds


@pytest.fixture(params=["lean", "official"])
def lean(request: pytest.FixtureRequest) -> bool:
    """Whether a host is called by the client of the commands, or by the one of the agent and the gateway."""
    return bool(request.param == "lean")


async def timed(fleet: Fleet, host: LabHost, bound: float, tool: str = READ, **arguments: object) -> Outcome:
    """One call that has to end in time."""
    outcome = await fleet.call(host.name, tool, arguments)
    assert outcome.seconds <= bound, outcome
    return outcome


async def until_ok(fleet: Fleet, host: LabHost, seconds: float) -> None:
    """Ask as people do, again and again, until it answers; all else is an answer that comes at once."""
    with anyio.fail_after(seconds):
        while not (await fleet.call(host.name, READ, {})).ok:  # noqa: ASYNC110  nothing tells when it is back
            await anyio.sleep(0.1)


def test_1_a_server_that_is_down_refuses_at_once(lab: Lab, lean: bool) -> None:
    down = lab.hosts[1]
    down.node.kill()

    async def work(fleet: Fleet) -> None:
        outcome = await timed(fleet, down, 0.5)
        assert (outcome.word, outcome.status) == ("refused", "unreachable: connection refused")
        down.node.start(PORT)
        assert (await fleet.call(down.name, READ, {})).ok, "it is used again at the first call"

    lab.run(work, lean=lean)


def test_2_3_a_host_that_is_off_costs_three_seconds_once_and_is_used_again_when_it_is_back(
    lab: Lab, lean: bool
) -> None:
    """Cable pulled, every packet swallowed, those of its port swallowed: one host each."""

    async def one(fleet: Fleet, host: LabHost) -> None:
        first = await timed(fleet, host, CONNECTING)
        second = await timed(fleet, host, 0.1)
        host.heal()
        await until_ok(fleet, host, 10)

        assert first.word == second.word == "unreachable"
        assert "down for" in second.status

    async def work(fleet: Fleet) -> None:
        lab.hosts[0].partition()
        lab.hosts[1].blackhole()
        lab.hosts[2].blackhole(PORT)
        async with anyio.create_task_group() as group:
            for host in lab.hosts:
                group.start_soon(one, fleet, host)

    lab.run(work, lean=lean)


def test_2_commands_share_what_they_waited_for(lab: Lab) -> None:
    lab.hosts[1].blackhole()

    first = lab.run(lambda fleet: timed(fleet, lab.hosts[1], CONNECTING))
    second = lab.run(lambda fleet: timed(fleet, lab.hosts[1], 0.1))
    lab.hosts[1].heal()
    with within(10):
        while not lab.run(lambda fleet: timed(fleet, lab.hosts[1], 2)).ok:
            time.sleep(0.2)  # a new command, as a person would type it

    assert first.word == second.word == "unreachable"


def test_5_a_server_that_hangs_costs_three_seconds(lab: Lab, lean: bool) -> None:
    hung = lab.hosts[1]

    async def work(fleet: Fleet) -> None:
        hung.node.suspend()
        assert (await timed(fleet, hung, CONNECTING)).word == "unreachable"
        assert (await timed(fleet, hung, 0.1)).word == "unreachable"
        hung.node.resume()
        await until_ok(fleet, hung, 10)

    lab.run(work, lean=lean)


def test_23_the_answers_of_the_others_are_not_held_back(lab: Lab, lean: bool) -> None:
    silent = lab.hosts[1]

    async def work(fleet: Fleet) -> dict[str, float]:
        await fleet.call_many([host.name for host in lab.hosts if host is not silent], READ, {})
        silent.blackhole()
        began, ended = time.monotonic(), dict[str, float]()
        await fleet.call_many(
            lab.names, READ, {}, on_outcome=lambda one: ended.update({one.host: time.monotonic() - began})
        )
        return ended

    ended = lab.run(work, lean=lean)

    assert list(ended)[-1] == silent.name
    assert all(ended[host.name] <= (CONNECTING if host is silent else 1) for host in lab.hosts)


def test_23_a_command_names_who_is_missing_and_exits_with_3(lab: Lab) -> None:
    lab.hosts[0].engine.run("web")
    lab.hosts[1].reject()

    done = lab.anvyl("ps", "--host", "@lab", "--json")

    assert done.code == 3
    assert {name: one["word"] for name, one in done.json["hosts"].items()} == {"h1": "ok", "h2": "refused", "h3": "ok"}
    assert done.json["hosts"]["h1"]["result"]["containers"][0]["name"] == "web"
    assert "h2: connection refused" in done.err
