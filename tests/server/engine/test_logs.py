"""Every log line is read once and rendered as in a terminal, on every engine, time zone and log driver."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from docker.types import LogConfig
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.engine.logs.cursor import Cursor
from tests.server.tools.test_tools import call, refused
from tests.support.engine.daemon import UnavailableError
from tests.support.engine.engines import RealEngine, private_engine
from tests.support.engine.fake_engine import FakeEngine
from tests.support.engine.podman import private_podman
from tests.support.hosts.nodes import anvyl

pytestmark = pytest.mark.engine

FIVE = "for i in 0 1 2 3 4; do echo line $i; done; sleep 600"
NEEDLE = (
    "head -c {} /dev/zero | tr '\\0' x; printf '.Needle-at-end.'; head -c 9000 /dev/zero | tr '\\0' y; echo; sleep 600"
)
ZONES = ["Europe/Berlin", "America/New_York"]


def started(manager: Any) -> Iterator[RealEngine]:
    try:
        with manager as engine:
            yield engine
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=[*ZONES, "podman"])
def other(request: pytest.FixtureRequest) -> Iterator[RealEngine]:
    """Engines on both sides of UTC, and Podman, which stamps by the second."""
    zone = str(request.param)
    yield from started(private_podman("podman") if zone == "podman" else private_engine("engine-zone", zone=zone))


@pytest.fixture
async def client(other: RealEngine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    monkeypatch.setenv("DOCKER_HOST", other.url)
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as opened:
        yield opened
    other.clean()


def image(engine: RealEngine) -> str:
    """The test image as this engine names it."""
    return str(engine.api.images(name="anvyl-test/web")[0]["RepoTags"][0])


def run(engine: RealEngine, name: str, script: str, *, tty: bool = False, driver: str = "") -> None:
    """Start a container that writes; with the driver `local`, Docker 20.10 uses the daemon's time zone."""
    config = LogConfig(type=driver) if driver else None
    host = engine.api.create_host_config(log_config=config)
    made = engine.api.create_container(image(engine), ["sh", "-c", script], name=name, tty=tty, host_config=host)
    engine.api.start(made)


async def logged(client: Client, name: str, until: str, **arguments: Any) -> dict[str, Any]:
    """The log, once it contains a line with this text."""
    with anyio.fail_after(20):
        while True:
            read = await call(client, "get_container_logs", name=name, **arguments)
            if any(until in line for line in read["lines"]):
                return read
            await anyio.lowlevel.checkpoint()


def driver_of(engine: RealEngine) -> str:
    return "" if "podman" in str(engine.api.version()).lower() else "local"


async def test_every_line_is_read_once_in_any_time_zone(client: Client, other: RealEngine) -> None:
    """moby/moby#46910, grafana/loki#1994: timestamps have the machine's offset."""
    run(other, "counts", FIVE, driver=driver_of(other))

    first = await logged(client, "counts", "line 4")
    later = await call(client, "get_container_logs", name="counts", since=first["next_since"])
    recent = await call(client, "get_container_logs", name="counts", since="5m")
    future = await call(client, "get_container_logs", name="counts", since="2090-01-01T00:00:00+02:00")

    assert first["lines"] == recent["lines"] == [f"line {number}" for number in range(5)]
    assert (later["lines"], future["lines"], first["truncated"]) == ([], [], False)
    assert first["next_since"].endswith("Z")


async def test_a_followed_log_repeats_no_line(client: Client, other: RealEngine) -> None:
    """Several lines per second: with whole-second timestamps, the time alone does not identify the last line read."""
    run(
        other,
        "quick",
        "i=0; while [ $i -lt 30 ]; do echo n $i; i=$((i+1)); sleep 0.07; done; sleep 600",
        driver=driver_of(other),
    )

    seen: list[str] = []
    since = ""
    with anyio.fail_after(30):
        while "n 29" not in seen:
            read = await call(client, "get_container_logs", name="quick", since=since, tail=500)
            seen += read["lines"]
            since = read["next_since"] or since

    assert seen == [f"n {number}" for number in range(30)]


async def test_a_burst_in_one_second_is_followed_from_its_end(client: Client, other: RealEngine) -> None:
    run(other, "burst", "seq 1 300; sleep 600")
    await logged(client, "burst", "300")

    end = await call(client, "get_container_logs", name="burst", tail=3)
    after = await call(client, "get_container_logs", name="burst", tail=5000, since=end["next_since"])

    assert (end["lines"], end["truncated"], after["lines"]) == (["298", "299", "300"], True, [])


@pytest.mark.parametrize("tty", [False, True], ids=["plain", "terminal"])
async def test_a_match_anywhere_in_a_line_is_shown_with_its_surroundings(
    tty: bool, client: Client, other: RealEngine
) -> None:
    """amir20/dozzle#3945: JSON lines exceed the engine's parts of 16 KB; one needle crosses the edge of a part."""
    for number, size in enumerate((4_000, 16_376, 40_000, 150_000)):
        run(other, f"long{number}", NEEDLE.format(size), tty=tty)
        read = await logged(client, f"long{number}", "", tail=1)
        found = await call(client, "get_container_logs", name=f"long{number}", grep="needle-AT-end")
        with anyio.fail_after(20):
            while not found["lines"]:
                found = await call(client, "get_container_logs", name=f"long{number}", grep="needle-AT-end")

        assert "x.Needle-at-end.y" in found["lines"][0] and len(found["lines"][0]) < 4_300, (size, read)
        assert (await call(client, "get_container_logs", name=f"long{number}", grep="nowhere"))["lines"] == []


@pytest.mark.parametrize("tty", [False, True], ids=["plain", "terminal"])
async def test_a_progress_bar_shows_its_last_state(tty: bool, client: Client, other: RealEngine) -> None:
    """moby/moby#19645."""
    steps = "for i in 1 2 3 4 5; do printf 'loading %s0%%\\r' $i; done; echo"
    script = f"{steps}; printf 'a\\rb\\r\\033[2K'; echo done; sleep 600"
    run(other, "progress", script, tty=tty)

    read = await logged(client, "progress", "done")
    earlier = await call(client, "get_container_logs", name="progress", grep="loading 20%")

    assert read["lines"] == ["loading 50%", "done"]
    assert earlier["lines"] == ["loading 20%"]


async def test_a_container_without_a_log_is_reported(client: Client, other: RealEngine) -> None:
    run(other, "quiet", FIVE, driver="none")

    error = await refused(client, "get_container_logs", name="quiet")
    followed = await anyio.to_thread.run_sync(lambda: anvyl("logs", "-f", "quiet"))

    assert (error["code"], error["message"]) == ("conflict", "`quiet` has no log: its log driver is `none`")
    assert "recreate it with another log driver" in error["hint"]
    assert followed.code != 0 and followed.err.count("has no log") == 1


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "e.sock") as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.url)
        yield engine


@pytest.fixture
async def on_fake(fake: FakeEngine) -> AsyncIterator[Client]:
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as opened:
        yield opened


def stamped(*lines: tuple[str, str]) -> bytes:
    """A log with these timestamps and lines."""
    parts = (f"{stamp} {words}\n".encode() for stamp, words in lines)
    return b"".join(struct.pack(">BxxxL", 1, len(part)) + part for part in parts)


@pytest.mark.parametrize(
    "stamps",
    [
        ("2026-11-23T12:00:00.100000000+02:00", "2026-11-23T12:00:00.2+02:00", "2026-11-23T05:00:01-05:00"),
        ("2026-11-23T10:00:00Z", "2026-11-23T10:00:00Z", "2026-11-23T10:00:01Z"),
        ("2026-11-23T10:00:00.1Z", "2026-11-23T10:00:00.25Z", "2026-11-23T10:00:00.3000Z"),
        ("2026-11-23T15:29:59.5+05:30", "2026-11-23T10:00:00.1Z", "2026-11-22T23:00:00.2-11:00"),
    ],
    ids=["both sides of UTC", "whole seconds", "few digits", "half hours"],
)
async def test_timestamps_are_compared_across_time_zones(
    stamps: tuple[str, ...], fake: FakeEngine, on_fake: Client
) -> None:
    words = ("one", "two", "three")
    box = fake.add("web", log=stamped(*zip(stamps, words, strict=True)))
    for number in range(len(words)):
        box.log = stamped(*zip(stamps[: number + 1], words[: number + 1], strict=True))
        since = (await call(on_fake, "get_container_logs", name="web"))["next_since"]
        box.log = stamped(*zip(stamps, words, strict=True))

        assert (await call(on_fake, "get_container_logs", name="web", since=since))["lines"] == list(
            words[number + 1 :]
        )
    assert (await call(on_fake, "get_container_logs", name="web", since="2026-11-23T10:00Z", tail=1))["lines"] == [
        "three"
    ]


async def test_identical_lines_are_counted(fake: FakeEngine, on_fake: Client) -> None:
    stamp = "2026-11-23T10:00:00Z"
    box = fake.add("web", log=stamped(*[(stamp, "same")] * 3))
    first = await call(on_fake, "get_container_logs", name="web")
    box.log = stamped(*[(stamp, "same")] * 5)

    assert len((await call(on_fake, "get_container_logs", name="web", since=first["next_since"]))["lines"]) == 2


async def test_an_unreadable_log_driver_is_named(fake: FakeEngine, on_fake: Client) -> None:
    fake.add("web", over={"HostConfig": {"LogConfig": {"Type": "syslog"}}})
    fake.fault("GET .*/logs", "501", body=b'{"message": "configured logging driver does not support reading"}')

    error = await refused(on_fake, "get_container_logs", name="web")

    assert error["message"] == "the log of `web` cannot be read here: its log driver `syslog` sends it elsewhere"


async def test_a_partly_searched_line_is_noted(
    fake: FakeEngine, on_fake: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anvyl_mcp.server.engine.logs.reader.MAX_SEARCHED_LINE_BYTES", 50_000)
    fake.add("web", log=stamped(("2026-11-23T10:00:00Z", "x" * 60_000 + " needle")))

    read = await call(on_fake, "get_container_logs", name="web", grep="needle")

    assert (read["lines"], read["note"]) == ([], "only the first 48.8 KiB of longer lines were searched")


async def test_an_excerpt_of_a_line_shows_no_secret(fake: FakeEngine, on_fake: Client) -> None:
    """A cut could separate a value from the name that marks it as secret."""
    line = f"{'x' * 6_000} password={'hunter2' * 300} needle {'y' * 9_000}"
    fake.add("web", log=stamped(("2026-11-23T10:00:00Z", line)))

    for wanted in ("needle", "hunter2"):
        assert "hunter2" not in str(await call(on_fake, "get_container_logs", name="web", grep=wanted))
    assert "needle" in str((await call(on_fake, "get_container_logs", name="web", grep="needle"))["lines"])


@pytest.mark.parametrize("folding", ["straße", "İstanbul", "ﬁne"])
async def test_a_match_after_characters_that_case_folding_lengthens(
    folding: str, fake: FakeEngine, on_fake: Client
) -> None:
    fake.add("web", log=stamped(("2026-11-23T10:00:00Z", f"{folding * 2_000} needle {'y' * 9_000}")))

    assert "needle yyy" in (await call(on_fake, "get_container_logs", name="web", grep="NEEDLE"))["lines"][0]


@pytest.mark.parametrize("seen", [0, 1, 2, 4_000])
def test_a_cursor_round_trips_as_a_time(seen: int) -> None:
    cursor = Cursor(1_764_000_000_123_456_789, seen)

    assert Cursor.parse(str(cursor)) == cursor
    assert str(cursor).startswith("2025-11-24T16:00:00.123456789") and str(Cursor()) == ""
    assert Cursor.parse("2026-11-23T12:00:00+02:00") == Cursor.parse("2026-11-23T10:00Z")
    assert Cursor.parse("2026-11-23").second == Cursor.parse("2026-11-23T00:00:00Z").second


@pytest.mark.parametrize("since", ["yore", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "10 parsecs"])
def test_an_invalid_time_is_refused(since: str) -> None:
    with pytest.raises(InvalidInput):
        Cursor.parse(since)
