"""What becomes of a fleet when a host, its network or its engine fails: each fault with the bound users are promised.

The numbers in the names are those of the fault table's rows. Bounds are asserted on what a
program waits for, in this process; a command's own start, which depends on how busy the machine is, comes on top.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import anyio
import anyio.to_thread
import pytest

from anvyl_mcp import __version__
from anvyl_mcp.peers.fleet import SLACK_SECONDS, Fleet, Outcome
from anvyl_mcp.peers.session import Session
from anvyl_mcp.peers.sockets import MOST_CONNECTIONS
from tests.lab import PORT, Lab, LabHost

READ = "list_containers"
CONNECTING = 3.2

Value = TypeVar("Value")


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


def wait_for(happened: Callable[[], bool]) -> None:
    """Return when it has happened, on a host that tells nobody."""
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


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


def test_4_a_black_hole_in_mid_call(lab: Lab) -> None:
    """A read has timed out after its own time; a change may have happened, and happened once."""
    reading, changing, _ = lab.hosts
    changing.engine.run("web")
    reading.engine.hang()
    count = "echo x >> /count; sleep 60"

    async def change(fleet: Fleet) -> Outcome:
        arguments = {"name": "web", "command": f"sh -c '{count}'", "timeout": 1}
        return await timed(fleet, changing, 1 + SLACK_SECONDS + 0.2, "exec_in_container", **arguments)

    with ThreadPoolExecutor(2) as threads:
        read = threads.submit(lab.run, lambda fleet: timed(fleet, reading, 10.2))
        changed = threads.submit(lab.run, change, lean=False)
        wait_for(lambda: "x" in changing.engine.output("web", "cat /count"))
        reading.blackhole()
        changing.blackhole()
    error = changed.result().error

    assert read.result().word == "timeout"
    assert changed.result().word == "unknown"
    assert error is not None and "look before you repeat it" in error.hint
    assert changing.engine.output("web", "cat /count") == "x\n"


def test_6_a_line_that_is_slow_far_or_loses_packets(lab: Lab) -> None:
    far, slow, lossy = lab.hosts
    slow.engine.run("talks", ["sh", "-c", "yes 0123456789012345678901234567890123456789 | head -n 3000; sleep 3600"])

    async def one(fleet: Fleet) -> None:
        assert (await timed(fleet, far, 2)).ok
        assert (await timed(fleet, far, 0.5)).ok

    async def much(fleet: Fleet) -> None:
        outcome = await timed(fleet, slow, 10, "get_container_logs", name="talks", tail=3000)
        assert outcome.ok, outcome.error

    async def often(fleet: Fleet) -> None:
        names = [lossy.name] * 10
        await gathered(fleet, names)
        lossy.lose(20)
        done = [outcome for _ in range(10) for outcome in await gathered(fleet, names)]
        assert sum(outcome.ok for outcome in done) >= 99, [outcome.status for outcome in done if not outcome.ok]

    far.delay(150)
    slow.slow("512kbit")
    with ThreadPoolExecutor(3) as threads:
        for future in [threads.submit(lab.run, work) for work in (one, much, often)]:
            future.result()


async def gathered(fleet: Fleet, names: list[str]) -> list[Outcome]:
    """A read of each name at once; a name may come several times."""
    done: list[Outcome] = []

    async def read(name: str) -> None:
        done.append(await fleet.call(name, READ, {}))

    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(read, name)
    return done


def test_7_a_server_that_ends_in_mid_call(lab: Lab, lean: bool) -> None:
    """Asked to end, it finishes what it does and the result arrives; killed, a change may or may not have happened."""
    asked, killed, _ = lab.hosts
    for host in (asked, killed):
        host.engine.run("web")
    ended: dict[str, float] = {}

    def both_began() -> bool:
        return all("began" in host.engine.output("web", "cat /count") for host in (asked, killed))

    async def work(fleet: Fleet) -> dict[str, Outcome]:
        done: dict[str, Outcome] = {}

        async def change(host: LabHost, seconds: int) -> None:
            arguments = {"name": "web", "command": f"sh -c 'echo began >> /count; sleep {seconds}'"}
            done[host.name] = await fleet.call(host.name, "exec_in_container", arguments)
            ended[host.name] = time.monotonic()

        async with anyio.create_task_group() as group:
            group.start_soon(change, asked, 2)
            group.start_soon(change, killed, 20)
            await anyio.to_thread.run_sync(wait_for, both_began)
            group.start_soon(anyio.to_thread.run_sync, asked.node.stop)
            killed.node.kill()
            ended["death"] = time.monotonic()
        return done

    done = lab.run(work, lean=lean)

    assert done[asked.name].ok, done[asked.name].error
    assert done[killed.name].word == "unknown"
    assert ended[killed.name] - ended["death"] <= 0.3


def test_8_an_engine_that_is_down_is_told_at_once_and_found_when_it_is_back(lab: Lab) -> None:
    host = lab.hosts[0]

    async def work(fleet: Fleet) -> None:
        assert (await fleet.call(host.name, READ, {})).ok
        host.engine.stop()
        down = await timed(fleet, host, 0.5)
        others = await timed(fleet, host, 1, "get_host_resources")
        host.engine.start()
        back = await timed(fleet, host, 1)

        assert (down.word, others.word, back.word) == ("engine_error", "ok", "ok")
        assert down.error is not None and down.error.hint

    lab.run(work)


def test_9_an_engine_that_hangs_is_told_in_five_seconds(lab: Lab) -> None:
    host = lab.hosts[0]

    async def work(fleet: Fleet) -> None:
        assert (await fleet.call(host.name, READ, {})).ok
        host.engine.hang()
        hung = await timed(fleet, host, 5.2)
        again = await timed(fleet, host, 2)
        others = await timed(fleet, host, 1, "get_host_resources")
        host.engine.resume()
        await until_ok(fleet, host, 5)

        assert (hung.word, again.word, others.word) == ("timeout", "timeout", "ok")

    lab.run(work)


def test_10_an_engine_that_was_killed_shows_what_did_not_come_back(lab: Lab) -> None:
    host = lab.hosts[0]
    host.engine.run("web")
    host.engine.run("keeper", restart_policy={"Name": "always"})

    async def work(fleet: Fleet) -> dict[str, str]:
        assert (await fleet.call(host.name, READ, {})).ok
        host.engine.kill()
        assert (await timed(fleet, host, 0.5)).word == "engine_error"
        host.engine.start()
        back = await timed(fleet, host, 2, READ, all=True)
        assert back.answer.result is not None, back.error
        return {one["name"]: one["state"] for one in back.answer.result["containers"]}

    assert lab.run(work) == {"keeper": "running", "web": "exited"}


def test_29_a_host_that_starts_again_is_not_run_over(lab: Lab, lean: bool) -> None:
    """Twenty callers who all insist: ten attempts a second while it is down, ten connections when it is up."""
    host = lab.hosts[0]

    async def work(fleet: Fleet, count: Callable[[], int]) -> tuple[int, int]:
        stop = anyio.Event()

        async def insist() -> None:
            while not stop.is_set():
                await fleet.call(host.name, READ, {})

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(insist)
            await anyio.sleep(2)
            while_down = count()
            await anyio.to_thread.run_sync(host.node.start, PORT)
            before = count()
            await until_ok(fleet, host, 5)
            await anyio.sleep(0.5)
            when_up = count() - before
            stop.set()
        return while_down, when_up

    host.node.kill()
    with host.knocks() as count:
        while_down, when_up = lab.run(lambda fleet: work(fleet, count), lean=lean)

    assert while_down <= 2 * 10 + 1
    assert when_up <= MOST_CONNECTIONS + 5


def test_30_a_client_of_an_older_protocol_is_served(lab: Lab) -> None:
    peer = lab.run(lambda fleet: asynced(fleet.peers["h1"]))

    async def ask(_: Fleet) -> tuple[str, bool]:
        session = Session(f"{peer.url}/mcp", mode="legacy", pin=peer.pin, token=peer.token)
        try:
            return await session.version(), (await session.call(READ, {}, seconds=10)).ok
        finally:
            await session.close()

    assert lab.run(ask) == (__version__, True)


async def asynced(value: Value) -> Value:
    return value
