"""The fleet: each host answers separately, and no host fails, delays or repeats the calls of another.

The bounds are those of design §6 and of the fault table (rows 1-3, 5, 23).
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from mcp.types import CallToolResult, TextContent
from pydantic_ai import RunContext
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RunUsage

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.errors import InvalidInput, Refused, Timeout, Unknown, UnknownHost, Unpaired, Unreachable
from anvyl_mcp.core.settings import load
from anvyl_mcp.orchestrator.ask.fleet_calls import FleetCalls
from anvyl_mcp.orchestrator.ask.toolset import FleetToolset
from anvyl_mcp.orchestrator.question import Question
from anvyl_mcp.orchestrator.run import Run
from anvyl_mcp.peers.connection.listing import Connection, ToolAnswer, ToolListing
from anvyl_mcp.peers.connection.transports import connect
from anvyl_mcp.peers.fleet.fleet import SLACK_SECONDS, Fleet, Outcome, time_limit
from anvyl_mcp.peers.hosts.audit_witness import HeadStore
from anvyl_mcp.peers.hosts.registry import Peer, Registry
from anvyl_mcp.peers.watch import health
from anvyl_mcp.peers.watch.health import check_hosts
from tests.support.stubs import StubConnection
from tests.support.toy_server import (
    Context,
    ToyServer,
    ToyTools,
    black_hole,
    faulty_server,
    free_port,
    hang_up,
    http_response,
    respond_with,
    serve_toy,
    silent,
)

FANOUT_SECONDS = 3.5
"""A fan-out with hosts that swallow packets: 3 s for their connection, and a little."""

MakeFleet = Callable[..., Fleet]


@pytest.fixture
def toy() -> ToyTools:
    return ToyTools()


@pytest.fixture
def host(toy: ToyTools) -> Iterator[ToyServer]:
    with serve_toy(toy) as host:
        yield host


@pytest.fixture(params=["lean", "official"])
async def fleet_of(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeFleet]:
    """Return a factory for fleets of URLs by name, with either client; the first is this host."""
    made: list[Fleet] = []

    def make(**urls: str) -> Fleet:
        registry = Registry(tmp_path / "fleet.toml")
        (first, address), *others = urls.items()
        for name, url in others:
            registry.add(Peer(name, url))
        tools = {name: ToolListing(name, "", {}, safety="reads", seconds=5) for name in (*ToyTools().tools, "drop")}
        tools["change"] = replace(tools["drop"], name="change", safety="changes")
        lean = request.param == "lean"
        made.append(Fleet(Peer(first, address), registry, tools, lambda peer: connect(peer.url, lean=lean)))
        return made[-1]

    yield make
    for fleet in made:
        await fleet.aclose()


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Fail if the block takes longer."""
    with anyio.fail_after(seconds + 5):
        started = time.monotonic()
        yield
        assert time.monotonic() - started < seconds


async def test_every_host_has_one_entry_whatever_happens_to_the_others(fleet_of: MakeFleet, host: ToyServer) -> None:
    with ExitStack() as stack:
        urls = {
            "good": host.url,
            "dead": f"http://127.0.0.1:{free_port()}",
            "swallows": stack.enter_context(black_hole()),
            "silent": stack.enter_context(faulty_server(silent)),
            "hangs-up": stack.enter_context(faulty_server(hang_up)),
            "web-page": stack.enter_context(
                faulty_server(respond_with(http_response("200 OK", "text/html", "<html>")))
            ),
            "refuses": stack.enter_context(
                faulty_server(respond_with(http_response("403 Forbidden", "application/json", "{}")))
            ),
            "unpaired": "http://192.0.2.1:4200",
            "also-good": host.url.replace("127.0.0.1", "localhost"),
        }
        fleet = fleet_of(**urls)
        ended: list[str] = []

        async with within(FANOUT_SECONDS):
            done = await fleet.call_many(fleet.hosts, "echo", {"n": 1}, on_outcome=lambda one: ended.append(one.host))

    assert list(done) == list(urls)
    assert {name for name, one in done.items() if one.ok} == {"good", "also-good"}
    assert isinstance(done["dead"].error, Refused)
    assert done["dead"].status == "unreachable: connection refused"
    assert isinstance(done["swallows"].error, Unreachable)
    assert isinstance(done["silent"].error, Unreachable | Timeout)
    assert isinstance(done["unpaired"].error, Unpaired)
    for name in ("hangs-up", "web-page", "refuses"):
        error = done[name].error
        assert error is not None and error.message, name
    assert sorted(ended) == sorted(urls)
    assert set(ended[-2:]) == {"silent", "swallows"}


async def test_ten_unresponsive_hosts_cost_as_much_as_one(fleet_of: MakeFleet, host: ToyServer) -> None:
    with ExitStack() as stack:
        holes = {f"hole-{number}": stack.enter_context(black_hole()) for number in range(10)}
        fleet = fleet_of(here=host.url, **holes)

        async with within(FANOUT_SECONDS):
            done = await fleet.call_many(fleet.hosts, "echo", {})

    assert [name for name, one in done.items() if one.ok] == ["here"]
    assert len(done) == 11


async def test_a_tool_that_is_slow_on_one_host_does_not_delay_others(fleet_of: MakeFleet, toy: ToyTools) -> None:
    quick = ToyTools()
    quick.release.set()
    with serve_toy(toy) as slow_host, serve_toy(quick) as quick_host:
        fleet = fleet_of(quick=quick_host.url, slow=slow_host.url)
        reported = anyio.Event()

        def note(outcome: Outcome) -> None:
            if outcome.host == "quick":
                reported.set()

        async with anyio.create_task_group() as group:
            group.start_soon(partial(fleet.call_many, ["slow", "quick"], "slow", {}, on_outcome=note))
            with anyio.fail_after(5):
                await reported.wait()
            toy.release.set()


async def test_a_host_that_answers_no_call_times_out_after_the_tools_limit(
    fleet_of: MakeFleet, host: ToyServer, toy: ToyTools
) -> None:
    fleet = fleet_of(here=host.url)
    fleet.catalogue = {"slow": ToolListing("slow", "", {}, safety="reads", seconds=0.5)}

    outcome = await fleet.call("here", "slow", {})

    assert isinstance(outcome.error, Timeout)
    assert outcome.status.startswith("timeout: no answer within 0.5 s")
    assert toy.executions["slow"] == 1


async def test_a_host_that_was_restarted_on_its_port_is_used_again(fleet_of: MakeFleet, host: ToyServer) -> None:
    fleet = fleet_of(here=host.url)
    assert (await fleet.call("here", "echo", {"n": 1})).ok

    for end in (host.stop, host.kill):
        await anyio.to_thread.run_sync(end)
        down = await fleet.call("here", "echo", {"n": 2})
        await anyio.to_thread.run_sync(host.start)
        again = await fleet.call("here", "echo", {"n": 3})

        assert isinstance(down.error, Unreachable)
        assert again.ok, again.error
        assert again.answer.result == {"said": {"n": 3}, "nothing": None}


async def test_a_restart_between_two_calls_is_not_reported(fleet_of: MakeFleet, host: ToyServer, toy: ToyTools) -> None:
    fleet = fleet_of(here=host.url)
    assert (await fleet.call("here", "echo", {})).ok

    await anyio.to_thread.run_sync(host.kill)
    await anyio.to_thread.run_sync(host.start)

    assert (await fleet.call("here", "echo", {})).ok
    assert toy.executions["echo"] == 2


def dropping(toy: ToyTools, host: ToyServer, name: str, times: int) -> None:
    """Add a tool that acts, but loses its connection before it answers, the first `times`."""

    async def drop(_: Context, arguments: dict[str, Any]) -> CallToolResult:
        if toy.executions[name] <= times:
            for connection in list(host._server.server_state.connections):
                connection.transport.abort()
        return CallToolResult(content=[TextContent(type="text", text="done")])

    toy.tools[name] = drop


async def test_a_read_whose_connection_is_lost_is_retried_once(
    fleet_of: MakeFleet, host: ToyServer, toy: ToyTools
) -> None:
    fleet = fleet_of(here=host.url)
    dropping(toy, host, "drop", times=1)

    outcome = await fleet.call("here", "drop", {})

    assert outcome.ok, outcome.error
    assert toy.executions["drop"] == 2


async def test_a_read_that_is_lost_twice_fails(fleet_of: MakeFleet, host: ToyServer, toy: ToyTools) -> None:
    fleet = fleet_of(here=host.url)
    dropping(toy, host, "drop", times=9)

    outcome = await fleet.call("here", "drop", {})

    assert isinstance(outcome.error, Unreachable)
    assert "connection was lost" in outcome.status
    assert toy.executions["drop"] == 2


async def test_a_change_whose_connection_is_lost_is_never_repeated(
    fleet_of: MakeFleet, host: ToyServer, toy: ToyTools
) -> None:
    """The error says that it may have happened, and how to check."""
    fleet = fleet_of(here=host.url)
    dropping(toy, host, "change", times=9)

    outcome = await fleet.call("here", "change", {})

    assert isinstance(outcome.error, Unknown)
    assert "may or may not have happened" in outcome.error.message
    assert "check before you repeat it" in outcome.error.hint
    assert toy.executions["change"] == 1


async def test_nothing_is_sent_to_a_host_that_is_not_paired(tmp_path: Path) -> None:
    reached: list[Peer] = []

    def note(peer: Peer) -> Connection:
        reached.append(peer)
        return connect(peer.url, lean=True)

    registry = Registry(tmp_path / "fleet.toml")
    registry.add(Peer("far", "http://192.0.2.1:4200"))
    fleet = Fleet(Peer("here", "memory:"), registry, Node(load()).fleet.catalogue, note)

    async with within(0.5):
        outcome = await fleet.call("far", "list_containers", {})
        [found] = await check_hosts(fleet, ["far"])

    assert reached == []
    assert isinstance(outcome.error, Unpaired)
    assert outcome.status == "unreachable: not paired yet, so nothing is sent to it"
    assert (found.ok, found.status) == (False, "unpaired: not paired yet, so nothing is sent to it")


async def test_changes_of_the_hosts_file_are_noticed(fleet_of: MakeFleet, host: ToyServer) -> None:
    fleet = fleet_of(here=host.url)
    assert fleet.hosts == ["here"]

    fleet.registry.add(Peer("new", host.url.replace("127.0.0.1", "localhost")))
    assert fleet.hosts == ["here", "new"]
    assert (await fleet.call("new", "echo", {})).ok

    fleet.registry.remove("new")
    gone = await fleet.call("new", "echo", {})
    assert isinstance(gone.error, UnknownHost)


async def test_a_host_with_a_new_address_is_reached_there(fleet_of: MakeFleet, host: ToyServer, toy: ToyTools) -> None:
    fleet = fleet_of(here=host.url, nas=f"http://127.0.0.1:{free_port()}")
    assert isinstance((await fleet.call("nas", "echo", {})).error, Refused)

    fleet.registry.remove("nas")
    fleet.registry.add(Peer("nas", host.url.replace("127.0.0.1", "localhost")))

    assert (await fleet.call("nas", "echo", {})).ok


async def test_an_unknown_tool_is_rejected_before_anything_is_sent(
    fleet_of: MakeFleet, host: ToyServer, toy: ToyTools
) -> None:
    outcome = await fleet_of(here=host.url).call("here", "ehco", {})

    assert isinstance(outcome.error, InvalidInput)
    assert outcome.error.hint == "did you mean `echo`?"
    assert not toy.executions


async def test_a_rejected_call_is_not_a_failure_of_the_host(fleet_of: MakeFleet, host: ToyServer) -> None:
    outcome = await fleet_of(here=host.url).call("here", "fail", {})

    assert (outcome.ok, outcome.host_failed, outcome.word) == (False, False, "failed")


async def test_closing_a_fleet_in_use_ends_its_calls(fleet_of: MakeFleet, host: ToyServer, toy: ToyTools) -> None:
    fleet = fleet_of(here=host.url)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(fleet.call, "here", "slow", {})
            await anyio.to_thread.run_sync(toy.started.wait, 5)
            group.cancel_scope.cancel()
        await fleet.aclose()


async def test_every_host_is_checked_at_once(fleet_of: MakeFleet, host: ToyServer) -> None:
    with black_hole() as hole:
        fleet = fleet_of(here=host.url, dead=f"http://127.0.0.1:{free_port()}", hole=hole)

        async with within(FANOUT_SECONDS):
            found = await check_hosts(fleet, fleet.hosts)

    assert [(one.name, one.ok, one.version) for one in found] == [
        ("here", True, "7.7"),
        ("dead", False, ""),
        ("hole", False, ""),
    ]
    assert found[1].status == "unreachable: connection refused"
    assert found[2].status.startswith("unreachable: ")


async def test_a_host_that_stops_answering_during_a_check_times_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MORE_SECONDS", 0.05)
    registry = Registry(tmp_path / "fleet.toml")
    registry.add(Peer("nas", "http://127.0.0.1:4200"))
    fleet = Fleet(Peer("here", "memory:"), registry, {}, lambda _: Mute())

    async with within(5):
        [found] = await check_hosts(
            fleet, ["nas"], partial(health.examine_host, heads=HeadStore(tmp_path / "heads.json"))
        )

    assert (found.ok, found.version) == (False, "1")
    assert found.status == "timeout: it answers, but the check did not finish within 0.05 s"


class Mute(StubConnection):
    """A host that answers only requests for its version."""

    async def list_tools(self) -> list[ToolListing]:
        await anyio.sleep_forever()
        return []

    async def call(self, *_: object, **__: object) -> ToolAnswer:
        raise AssertionError


LIMITS = {"timeout": {"type": "integer", "default": 30}}


@pytest.mark.parametrize(
    ("arguments", "schema", "seconds", "limit"),
    [
        ({}, {}, 12, 12),
        ({}, LIMITS, 130, 30 + SLACK_SECONDS),
        ({"timeout": 5}, LIMITS, 130, 5 + SLACK_SECONDS),
        ({"timeout": "5"}, LIMITS, 130, 5 + SLACK_SECONDS),
        ({"timeout": 1.5}, LIMITS, 130, 1.5 + SLACK_SECONDS),
        ({"timeout": 100_000}, LIMITS, 130, 130),
        ({"timeout": "soon"}, LIMITS, 130, 130),
        ({"timeout": "²"}, LIMITS, 130, 130),
        ({"timeout": None}, LIMITS, 130, 130),
    ],
)
def test_the_time_limit_comes_from_the_tool_or_its_timeout(
    arguments: dict[str, Any], schema: dict[str, Any], seconds: float, limit: float
) -> None:
    tool = ToolListing("t", "", {"properties": schema}, seconds=seconds)

    assert time_limit(tool, arguments) == limit


async def definitions(hosts: int, folder: Path) -> str:
    """Return all tool definitions as they are sent to a model."""
    registry = Registry(folder / f"{hosts}.toml")
    for number in range(1, hosts):
        registry.add(Peer(f"host-{number}", f"http://127.0.0.1:{4300 + number}"))
    fleet = Fleet(
        Peer("here", "memory:"), registry, Node(load()).fleet.catalogue, lambda peer: connect(peer.url, lean=True)
    )
    assert len(fleet.hosts) == hosts
    context = RunContext(deps=Run(Question("")), model=TestModel(), usage=RunUsage())
    shown = await FleetToolset(fleet, FleetCalls(fleet)).get_tools(context)
    return json.dumps(
        [
            [tool.tool_def.name, tool.tool_def.description, tool.tool_def.parameters_json_schema]
            for tool in shown.values()
        ]
    )


async def test_tool_definitions_do_not_grow_with_the_number_of_hosts(tmp_path: Path) -> None:
    one, ten = await definitions(1, tmp_path), await definitions(10, tmp_path)

    assert one == ten
    assert '"x-' not in one
    for name, description, schema in json.loads(one):
        assert description, name
        assert schema["additionalProperties"] is False
        assert ("host" in schema["properties"]) is (name != "list_hosts")
