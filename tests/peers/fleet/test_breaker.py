"""An unresponsive host costs one timeout, and is used again once it answers.

The bounds are those of design §6: 3 s for a connection, then nothing for a while; back within 10 s.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from anvyl_mcp.core.errors import AnvylError, NotFound, Refused, Timeout, Unknown, Unreachable
from anvyl_mcp.peers.connection.listing import ToolAnswer, ToolListing
from anvyl_mcp.peers.connection.transports import connect
from anvyl_mcp.peers.fleet import breaker, down_marks
from anvyl_mcp.peers.fleet.down_marks import Down, DownMarks
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.fleet.status import STATUS_WORDS, host_status, status_text
from anvyl_mcp.peers.hosts.audit_witness import HeadStore
from anvyl_mcp.peers.hosts.registry import Peer, Registry
from anvyl_mcp.peers.watch.health import check_host, examine_host
from tests.support.stubs import StubConnection
from tests.support.toy_server import black_hole

NAS = Peer("nas", "http://127.0.0.1:4299")
SILENT = Unreachable("no answer within 3 s", hint="is it on, and on this network?")
TOOLS = {
    "look": ToolListing("look", "", {}, safety="reads", seconds=5),
    "change": ToolListing("change", "", {}, safety="changes", seconds=5),
}


class Host(StubConnection):
    """A host that fails or answers as configured, and counts its calls."""

    def __init__(self, failure: AnvylError | None = None, seconds: float = 0.05) -> None:
        self.failure = failure
        self.seconds = seconds
        self.calls = 0
        self.greetings = 0
        self.greeted_again = anyio.Event()

    async def call(self, tool: str, arguments: Mapping[str, Any], **options: Any) -> ToolAnswer:
        self.calls += 1
        await self._answer()
        return ToolAnswer(result={}, text="done")

    async def version(self) -> str:
        self.greetings += 1
        if self.greetings == 2:
            self.greeted_again.set()
        await self._answer()
        return "1"

    async def _answer(self) -> None:
        if (failure := self.failure) is not None:
            await anyio.sleep(self.seconds)
            raise failure


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the costly failure and the probe interval to a twentieth of a second."""
    monkeypatch.setattr(breaker, "COSTLY_SECONDS", 0.04)
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 0.05)


MakeFleet = Callable[[Host], Fleet]


@pytest.fixture
async def fleet_with(tmp_path: Path) -> AsyncIterator[MakeFleet]:
    """Return a factory for fleets of this host and `nas`, each like a separate process with the same home."""
    made: list[Fleet] = []

    def make(host: Host) -> Fleet:
        registry = Registry(tmp_path / "hosts.toml")
        if not registry.peers():
            registry.add(NAS)
        marks = DownMarks(tmp_path / "down")
        made.append(Fleet(Peer("here", "memory:"), registry, TOOLS, lambda peer: host, marks=marks))
        return made[-1]

    yield make
    for fleet in made:
        await fleet.aclose()


@asynccontextmanager
async def soon() -> AsyncIterator[None]:
    """Fail if the block takes as long as a timeout."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 0.5


async def outcome_with_status(said: str, fleet: Fleet) -> Outcome:
    """Call until the outcome has this status word."""
    with anyio.fail_after(5):
        while (outcome := await fleet.call("nas", "look", {})).word != said:  # noqa: ASYNC110  the host comes by itself
            await anyio.sleep(0.01)
    return outcome


async def test_an_unresponsive_host_costs_one_timeout(fleet_with: MakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 60)
    host = Host(SILENT)
    fleet = fleet_with(host)

    first = await fleet.call("nas", "look", {})
    second = await fleet.call("nas", "change", {})

    assert first.error is SILENT
    assert (host.calls, second.word) == (1, "unreachable")
    assert second.status.startswith("unreachable: no answer within 3 s, down for ")
    assert second.error is not None and "anvyl hosts check" in second.error.hint


class Lossy(Host):
    """A host that one call cannot reach, while a concurrent call is answered."""

    async def call(self, tool: str, arguments: Mapping[str, Any], **options: Any) -> ToolAnswer:
        self.calls += 1
        if self.calls == 1:
            await anyio.sleep(0.05)
            raise SILENT
        return ToolAnswer(result={}, text="done")


@pytest.mark.parametrize("first", ["look", "change"])
async def test_packet_loss_does_not_mark_a_host_as_down(fleet_with: MakeFleet, first: str) -> None:
    """Fault table, row 6: a read is retried once, and the host is not marked down, since it answers other calls."""
    host = Lossy()
    fleet = fleet_with(host)
    done: list[Outcome] = []

    async def call(tool: str) -> None:
        done.append(await fleet.call("nas", tool, {}))

    async with anyio.create_task_group() as group:
        group.start_soon(call, first)
        await anyio.sleep(0.01)
        group.start_soon(call, "look")

    assert [one.ok for one in done] == [True, first == "look"]
    assert host.calls == (3 if first == "look" else 2)
    assert not fleet.is_skipped("nas")


async def test_a_host_that_comes_back_is_used_again(fleet_with: MakeFleet) -> None:
    host = Host(SILENT)
    fleet = fleet_with(host)
    assert not (await fleet.call("nas", "look", {})).ok
    with anyio.fail_after(5):
        await host.greeted_again.wait()

    host.failure = None
    await outcome_with_status("ok", fleet)

    assert host.calls == 2
    greetings = host.greetings
    await anyio.sleep(0.2)
    assert host.greetings == greetings, "it is not asked any more once it is back"


async def test_a_stale_mark_is_probed_before_a_call_fails(
    fleet_with: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a prompt blocks the process, no background probe runs."""
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 60)
    host = Host(SILENT)
    fleet = fleet_with(host)
    await fleet.call("nas", "look", {})
    host.failure = None

    too_soon = await fleet.call("nas", "look", {})
    monkeypatch.setattr(down_marks, "FRESH_SECONDS", 0)
    later = await fleet.call("nas", "look", {})

    assert (too_soon.word, later.word) == ("unreachable", "ok")


async def test_a_host_that_refuses_connections_is_tried_on_every_call(fleet_with: MakeFleet) -> None:
    """A refused connection is cheap, so the breaker closes."""
    host = Host(SILENT)
    fleet = fleet_with(host)
    await fleet.call("nas", "look", {})

    host.failure, host.seconds = Refused("connection refused"), 0
    outcome = await outcome_with_status("refused", fleet)

    host.failure = None
    assert outcome.status == "unreachable: connection refused"
    assert (await fleet.call("nas", "look", {})).ok


async def test_the_next_process_does_not_wait_again(fleet_with: MakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two commands in a row with the same home, only the first waits."""
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 60)
    first, second = Host(SILENT), Host(SILENT)
    await fleet_with(first).call("nas", "look", {})

    outcome = await fleet_with(second).call("nas", "look", {})

    assert (first.calls, second.calls, second.greetings) == (1, 0, 0)
    assert outcome.word == "unreachable"


async def test_an_old_mark_gets_a_short_trial(
    fleet_with: MakeFleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 60)
    monkeypatch.setattr(breaker, "TRIAL_SECONDS", 0.1)
    marks = DownMarks(tmp_path / "down")
    long_ago = time.time() - down_marks.FRESH_SECONDS - 30
    old = Down(long_ago, long_ago, "no answer within 3 s")

    marks.write(NAS, old)
    host = Host(SILENT, seconds=60)
    async with soon():
        still = await fleet_with(host).call("nas", "look", {})
    renewed = marks.read(NAS)

    marks.write(NAS, old)
    back = await fleet_with(Host()).call("nas", "look", {})

    assert (still.word, host.calls, host.greetings) == ("unreachable", 0, 1)
    assert "down for 3" in still.status
    assert renewed is not None and renewed.fresh and renewed.since == long_ago
    assert back.ok
    assert marks.read(NAS) is None, "who answers is not marked any more"


async def test_a_process_that_reached_a_host_ignores_the_mark_of_another(fleet_with: MakeFleet, tmp_path: Path) -> None:
    fleet = fleet_with(Host())
    assert (await fleet.call("nas", "look", {})).ok

    DownMarks(tmp_path / "down").write(NAS, Down(time.time(), time.time(), "no answer within 3 s"))

    assert (await fleet.call("nas", "look", {})).ok


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"since": "x", "asked": 1, "reason": ""}',
        json.dumps({"since": time.time() - 9000, "asked": time.time() - 9000, "reason": "long ago"}),
        json.dumps({"since": time.time() + 9000, "asked": time.time() + 9000, "reason": "a clock was set back"}),
    ],
    ids=["empty", "list", "no fields", "no time", "expired", "from the future"],
)
async def test_a_malformed_mark_is_ignored(fleet_with: MakeFleet, tmp_path: Path, content: str) -> None:
    DownMarks(tmp_path / "down").write(NAS, Down(time.time(), time.time(), "silent"))
    [file] = (tmp_path / "down").iterdir()
    file.write_text(content, encoding="utf-8")

    assert (await fleet_with(Host()).call("nas", "look", {})).ok


async def test_a_read_only_home_only_costs_the_timeout(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    host = Host(SILENT)
    registry = Registry(tmp_path / "hosts.toml")
    registry.add(NAS)
    marks = DownMarks(tmp_path / "file" / "down")
    fleet = Fleet(Peer("here", "memory:"), registry, TOOLS, lambda peer: host, marks=marks)

    assert (await fleet.call("nas", "look", {})).error is SILENT
    host.failure = None
    await outcome_with_status("ok", fleet)
    await fleet.aclose()


async def test_a_removed_host_is_no_longer_probed(fleet_with: MakeFleet) -> None:
    host = Host(SILENT)
    fleet = fleet_with(host)
    await fleet.call("nas", "look", {})
    fleet.registry.remove("nas")
    await anyio.sleep(0.15)

    greetings = host.greetings
    await anyio.sleep(0.15)

    assert host.greetings == greetings


async def test_a_check_asks_a_host_that_is_marked_down(
    fleet_with: MakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 60)
    host = Host(SILENT)
    fleet = fleet_with(host)
    await fleet.call("nas", "look", {})
    host.failure = None

    listed, checked = (
        await check_host(fleet, "nas"),
        await examine_host(fleet, "nas", HeadStore(tmp_path / "heads.json")),
    )

    assert (listed.ok, checked.ok) == (False, True)
    assert (await fleet.call("nas", "look", {})).ok


async def test_a_refusing_host_is_tried_at_most_ten_times_a_second(fleet_with: MakeFleet) -> None:
    """However many callers there are, so that a starting host is not overloaded."""
    host = Host(Refused("connection refused"), seconds=0)
    fleet = fleet_with(host)

    async def insist() -> None:
        while True:
            assert (await fleet.call("nas", "look", {})).word == "refused"

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(insist)
        await anyio.sleep(1)
        group.cancel_scope.cancel()

    assert 3 <= host.greetings <= 11
    assert host.calls <= 20, "only those that came before it was known"


async def test_a_cancelled_call_leaves_no_state(fleet_with: MakeFleet) -> None:
    host = Host(SILENT, seconds=60)
    fleet = fleet_with(host)

    with anyio.move_on_after(0.05):
        await fleet.call("nas", "look", {})
    host.failure = None

    assert (await fleet.call("nas", "look", {})).ok


async def test_a_change_without_an_answer_has_an_unknown_outcome(fleet_with: MakeFleet) -> None:
    """Fault table, row 4: a read has timed out, a change is unknown."""
    fleet = fleet_with(Host(Timeout("no answer within 5 s")))

    look, change = await fleet.call("nas", "look", {}), await fleet.call("nas", "change", {})

    assert look.word == "timeout"
    assert change.word == "unknown"
    assert change.error is not None and "may or may not have happened" in change.error.message


async def test_concurrent_callers_share_the_first_check_of_a_host(tmp_path: Path) -> None:
    with black_hole() as hole:
        connection = connect(hole, lean=True)
        began = time.monotonic()
        failures: list[AnvylError] = []

        async def look() -> None:
            try:
                await connection.version() if not failures else None
                await connection.call("look", {}, seconds=5)
            except AnvylError as error:
                failures.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(look)
        await connection.close()

    assert len(failures) == 30
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "ok"),
        (NotFound("there is no container `web`"), "ok"),
        (Refused("connection refused"), "refused"),
        (Unreachable("no route"), "unreachable"),
        (Unknown("lost"), "unknown"),
        (Timeout("no answer"), "timeout"),
    ],
)
def test_every_error_has_a_status_word(error: AnvylError | None, said: str) -> None:
    assert host_status(error) == said
    assert host_status(error) in STATUS_WORDS
    assert status_text(error).partition(":")[0] in STATUS_WORDS
