"""Faults of a host, its network or its engine, each with the time limit that is documented.

The numbers in the names are those of the fault table's rows. Bounds are asserted on what a
program waits for, in this process; a command's own start, which depends on how busy the machine is, comes on top.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from anvyl_mcp import __version__
from anvyl_mcp.peers.connection.http_connections import MOST_CONNECTIONS
from anvyl_mcp.peers.connection.sdk_client import SdkClient
from anvyl_mcp.peers.fleet.fleet import SLACK_SECONDS, Fleet, Outcome
from anvyl_mcp.server.engine.engine import MAX_CONCURRENT_READS
from tests.support.hosts.lab import PORT, Lab, LabHost
from tests.support.hosts.nodes import ANVYL_MCP, PYTHON, run_program

READ = "list_containers"
CONNECTING = 3.2

Value = TypeVar("Value")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer than a limit of the fault table."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began <= seconds


async def timed(fleet: Fleet, host: LabHost, bound: float, tool: str = READ, **arguments: object) -> Outcome:
    """Make one call that must end within `bound` seconds."""
    outcome = await fleet.call(host.name, tool, arguments)
    assert outcome.seconds <= bound, outcome
    return outcome


async def until_ok(fleet: Fleet, host: LabHost, seconds: float) -> None:
    """Retry until the host answers; every failure must come immediately."""
    with anyio.fail_after(seconds):
        while not (await fleet.call(host.name, READ, {})).ok:  # noqa: ASYNC110  there is no event to wait for
            await anyio.sleep(0.1)


def wait_for(happened: Callable[[], bool]) -> None:
    """Poll until a condition holds that has no event."""
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def together(action: Callable[[], None], parties: int = 2) -> Callable[[], Awaitable[object]]:
    """Barrier for clients; `action` runs when all have arrived, before they continue."""
    barrier = threading.Barrier(parties, action, timeout=60)
    return partial(anyio.to_thread.run_sync, barrier.wait)


def test_1_a_server_that_is_down_refuses_at_once(lab: Lab) -> None:
    down = lab.hosts[1]
    down.node.kill()
    start_it = together(partial(down.node.start, PORT))

    async def work(fleet: Fleet) -> None:
        outcome = await timed(fleet, down, 0.5)
        assert (outcome.word, outcome.status) == ("refused", "unreachable: connection refused")
        await start_it()
        assert (await fleet.call(down.name, READ, {})).ok, "it is used again at the first call"

    lab.both(work)


def test_2_3_5_a_silent_host_costs_three_seconds_once_and_is_used_again_after_it_recovers(lab: Lab) -> None:
    """One host each: link down, packets to its port dropped, server suspended. Commands share their marks."""
    off, swallowing, hung = lab.hosts

    def heal() -> None:
        off.heal()
        swallowing.heal()
        hung.node.resume()

    healed = together(heal, parties=3)

    async def one(fleet: Fleet, host: LabHost, done: dict[str, list[Outcome]]) -> None:
        done[host.name] = [await timed(fleet, host, CONNECTING), await timed(fleet, host, 0.1)]

    async def work(fleet: Fleet) -> dict[str, list[Outcome]]:
        done: dict[str, list[Outcome]] = {}
        async with anyio.create_task_group() as group:
            for host in lab.hosts:
                group.start_soon(one, fleet, host, done)
        await healed()
        async with anyio.create_task_group() as group:
            for host in lab.hosts:
                group.start_soon(until_ok, fleet, host, 10)
        return done

    def commands() -> list[Outcome]:
        first = lab.run(lambda fleet: timed(fleet, off, CONNECTING))
        second = lab.run(lambda fleet: timed(fleet, off, 0.1))
        anyio.run(healed)
        with within(10):
            while not lab.run(lambda fleet: timed(fleet, off, 2)).ok:
                time.sleep(0.2)  # a new command, as a person would type it
        return [first, second]

    off.partition()
    swallowing.blackhole(PORT)
    hung.node.suspend()
    with ThreadPoolExecutor(1) as threads:
        typed = threads.submit(commands)
        seen = [*lab.both(work), {"commands": typed.result()}]

    outcomes = [pair for one in seen for pair in one.values()]
    assert len(outcomes) == 7
    assert {outcome.word for pair in outcomes for outcome in pair} == {"unreachable"}
    assert all("down for" in second.status for _, second in outcomes)


def test_23_results_of_other_hosts_are_not_delayed(lab: Lab) -> None:
    silent = lab.hosts[1]
    swallow = together(silent.blackhole)

    async def work(fleet: Fleet) -> dict[str, float]:
        await fleet.call_many([host.name for host in lab.hosts if host is not silent], READ, {})
        await swallow()
        began, ended = time.monotonic(), dict[str, float]()
        await fleet.call_many(
            lab.names, READ, {}, on_outcome=lambda one: ended.update({one.host: time.monotonic() - began})
        )
        return ended

    for ended in lab.both(work):
        assert list(ended)[-1] == silent.name
        assert all(ended[host.name] <= (CONNECTING if host is silent else 1) for host in lab.hosts)


def test_23_a_command_names_missing_hosts_and_exits_with_3(lab: Lab) -> None:
    lab.hosts[0].engine.run("web")
    lab.hosts[1].reject()

    done = lab.anvyl("ps", "--host", "@lab", "--json")

    assert done.code == 3
    assert {name: one["word"] for name, one in done.json["hosts"].items()} == {"h1": "ok", "h2": "refused", "h3": "ok"}
    assert done.json["hosts"]["h1"]["result"]["containers"][0]["name"] == "web"
    assert "h2: connection refused" in done.err


def test_4_a_connection_that_drops_packets_in_mid_call(lab: Lab) -> None:
    """A read times out after its own timeout; a change may have happened, but at most once."""
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
    assert error is not None and "check before you repeat it" in error.hint
    [operation] = re.findall(r"\(operation ([0-9a-f-]{36})\)", error.message)
    changing.heal()
    assert [record["tool"] for record in audited(changing, operation)][:1] == ["exec_in_container"]
    assert changing.engine.output("web", "cat /count") == "x\n"


def test_6_a_network_that_is_slow_distant_or_loses_packets(lab: Lab) -> None:
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
        done = []
        for _ in range(10):
            done += await gathered(fleet, names)
            await anyio.sleep(0.4)  # rate limit: twenty requests a second per token
        assert sum(outcome.ok for outcome in done) >= 99, [outcome.status for outcome in done if not outcome.ok]

    far.delay(150)
    slow.slow("512kbit")
    with ThreadPoolExecutor(3) as threads:
        for future in [threads.submit(lab.run, work) for work in (one, much, often)]:
            future.result()


async def gathered(fleet: Fleet, names: list[str]) -> list[Outcome]:
    """Read from all named hosts at once; a name may occur several times."""
    done: list[Outcome] = []

    async def read(name: str) -> None:
        done.append(await fleet.call(name, READ, {}))

    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(read, name)
    return done


def test_7_a_server_that_stops_in_mid_call(lab: Lab) -> None:
    """On SIGTERM it finishes running calls and sends the results; on SIGKILL a change may or may not have happened."""
    asked, killed, _ = lab.hosts
    names = iter(["web1", "web2"])
    for host in (asked, killed):
        for name in ("web1", "web2"):
            host.engine.run(name)

    def began() -> bool:
        counts = [host.engine.output(name, "cat /count") for host in (asked, killed) for name in ("web1", "web2")]
        return all("began" in count for count in counts)

    async def work(fleet: Fleet) -> tuple[dict[str, Outcome], dict[str, float]]:
        name, done, ended = next(names), dict[str, Outcome](), dict[str, float]()

        async def change(host: LabHost, seconds: int) -> None:
            arguments = {"name": name, "command": f"sh -c 'echo began >> /count; sleep {seconds}'"}
            done[host.name] = await fleet.call(host.name, "exec_in_container", arguments)
            ended[host.name] = time.monotonic()

        async with anyio.create_task_group() as group:
            group.start_soon(change, asked, 2)
            group.start_soon(change, killed, 20)
        return done, ended

    with ThreadPoolExecutor(2) as threads:
        clients = threads.submit(lab.both, work)
        wait_for(began)
        threads.submit(asked.node.stop)
        killed.node.kill()
        death = time.monotonic()

    for done, ended in clients.result():
        assert done[asked.name].ok, done[asked.name].error
        assert done[killed.name].word == "unknown"
        assert ended[killed.name] - death <= 0.3


def test_8_a_stopped_engine_is_reported_at_once_and_used_again_after_its_start(lab: Lab) -> None:
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


def test_9_a_hanging_engine_is_reported_in_five_seconds_and_delays_no_other_host(lab: Lab) -> None:
    """At most eight threads wait for it; other requests are served, and /health reports the problem."""
    host = lab.hosts[0]
    hang = together(host.engine.hang)

    async def work(fleet: Fleet) -> list[Outcome]:
        assert (await fleet.call(host.name, READ, {})).ok
        done: list[Outcome] = []

        async def ask() -> None:
            done.append(await timed(fleet, host, 5.2))

        await hang()
        async with anyio.create_task_group() as group:
            for _ in range(MOST_CONNECTIONS):
                group.start_soon(ask)
        return [*done, await timed(fleet, host, 2)]

    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(lab.both, work)
        wait_for(lambda: waiting_for_the_engine(host) == MAX_CONCURRENT_READS)
        others = lab.run(lambda fleet: timed(fleet, host, 1, "get_host_resources"))
        assert waiting_for_the_engine(host) <= MAX_CONCURRENT_READS
        with within(5.2):
            health = health_of(host)
    hung = [outcome for one in asking.result() for outcome in one]
    host.engine.resume()
    lab.run(lambda fleet: until_ok(fleet, host, 5))

    assert MAX_CONCURRENT_READS <= 8
    assert {outcome.word for outcome in hung} == {"timeout"} and len(hung) == 2 * (MOST_CONNECTIONS + 1)
    assert others.ok, others.error
    assert health == {"status": "degraded", "engine": str(hung[0].error)}
    assert health_of(host)["status"] == "healthy"


def waiting_for_the_engine(host: LabHost) -> int:
    """Number of server threads waiting for the engine: connections with unread data."""
    sockets = subprocess.check_output([*host.prefix, "ss", "-xpH"], text=True).splitlines()
    ours = [line.split() for line in sockets if f"pid={host.node.process.pid}," in line]
    return sum(int(unread) > 0 for _, _, _, unread, *_ in ours)


def audited(host: LabHost, operation: str) -> list[dict[str, Any]]:
    """Records of one operation in the host's audit log."""
    arguments = ("audit", "--operation", operation, "--json")
    done = run_program(*arguments, program=ANVYL_MCP, prefix=host.prefix, ANVYL_HOME=str(host.node.home))
    records: list[dict[str, Any]] = done.json["records"]
    return records


def health_of(host: LabHost) -> dict[str, str]:
    """Response of /health on the host itself."""
    ask = f"import urllib.request as web; print(web.urlopen('http://127.0.0.1:{PORT}/health').read().decode())"
    document = json.loads(subprocess.check_output([*host.prefix, PYTHON, "-c", ask], text=True))
    return {"status": document["status"], "engine": document["checks"]["engine"]}


def test_10_a_killed_engine_shows_which_containers_did_not_come_back(lab: Lab) -> None:
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


def test_29_a_restarting_host_is_not_flooded(lab: Lab) -> None:
    """Twenty clients retry without a pause: at most ten attempts a second while it is down, ten connections after."""
    hosts = list(lab.hosts[:2])
    for host in hosts:
        host.node.kill()

    async def work(fleet: Fleet) -> tuple[int, int]:
        host = hosts.pop()
        with host.count_connections() as count:
            return await insisted(fleet, host, count)

    async def insisted(fleet: Fleet, host: LabHost, count: Callable[[], int]) -> tuple[int, int]:
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

    for while_down, when_up in lab.both(work):
        assert while_down <= 2 * 10 + 1
        assert when_up <= MOST_CONNECTIONS + 5


def test_30_a_client_of_an_older_protocol_is_served(lab: Lab) -> None:
    peer = lab.run(lambda fleet: asynced(fleet.peers["h1"]))

    async def ask(_: Fleet) -> tuple[str, bool]:
        session = SdkClient(f"{peer.url}/mcp", mode="legacy", pin=peer.pin, token=peer.token)
        try:
            return await session.version(), (await session.call(READ, {}, seconds=10)).ok
        finally:
            await session.close()

    assert lab.run(ask) == (__version__, True)


async def asynced(value: Value) -> Value:
    return value
