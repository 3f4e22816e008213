"""A clock that is set forward or back while the server runs: fault table row 16."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine.engines import RealEngine
from tests.support.hosts.network import Lan, lan
from tests.support.hosts.nodes import ANVYL_MCP, CommandResult, ServingNode, run_program, running_node

__all__ = ["lan"]

HOUR, YEARS = 3600, 10 * 365 * 86400


class Clock:
    """Wall clock of the server, changed with libfaketime; the monotonic clock is not affected."""

    def __init__(self, file: Path, library: Path) -> None:
        self._file = file
        self.set("+0")
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, away: str) -> None:
        """Set the offset from the real time."""
        self._file.write_text(f"{away}\n", encoding="ascii")


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("a clock that can be set needs libfaketime: apt-get install faketime")
    return Clock(tmp_path / "clock", found[0])


@pytest.fixture
def node(lan: Lan, engine: RealEngine, tmp_path: Path, clock: Clock) -> Iterator[ServingNode]:
    with running_node("beta", tmp_path / "beta", engine, lan.prefix, port=0, **clock.environment) as started:
        yield started


def on_beta(lan: Lan, node: ServingNode, *arguments: str) -> CommandResult:
    return run_program(*arguments, program=ANVYL_MCP, prefix=lan.prefix, ANVYL_HOME=str(node.home))


def here(lan: Lan, *arguments: str) -> CommandResult:
    return run_program(*arguments, prefix=lan.far, ANVYL_NAME="alpha", DOCKER_HOST="unix:///nonexistent/docker.sock")


def test_16_a_clock_that_jumps_breaks_nothing(lan: Lan, node: ServingNode, engine: RealEngine, clock: Clock) -> None:
    engine.run("web")
    code = on_beta(lan, node, "invite", "--host", lan.address, "--json").json["code"]
    clock.set("+10y")

    joined = here(lan, "hosts", "add", code)

    assert joined.code == 0 and "it answers" in joined.err, joined.err
    for away, seconds in (("+10y", YEARS), ("+1h", HOUR), ("-10y", -YEARS)):
        clock.set(away)
        done = here(lan, "restart", "web", "--host", "beta", "--json")
        assert done.json["hosts"]["beta"]["ok"], (away, done.err)
        checked = here(lan, "hosts", "check", "beta", "--json").json["hosts"]["beta"]
        assert checked["ok"] and abs(checked["clock_seconds"] - seconds) < 5
    check = here(lan, "hosts", "check", "beta")
    assert (check.code, check.out.splitlines()[1].split("\t")[6]) == (0, "-3650 days")
    assert "its clock is 3650 days behind" in check.err
    records = on_beta(lan, node, "audit", "--tool", "restart_container", "--json").json["records"]
    assert [record["outcome"] for record in records] == ["ok"] * 3
    recorded = here(lan, "history", "web", "--since", "2000-01-01", "--json").json["events"]
    assert sum(event["times"] for event in recorded if event["what"] == "restarted") == 3
    assert [record["seq"] for record in records] == sorted(record["seq"] for record in records)
    assert on_beta(lan, node, "audit", "verify").code == 0


def test_16_a_token_expires_by_the_hosts_clock(lan: Lan, node: ServingNode, clock: Clock) -> None:
    made = on_beta(lan, node, "invite", "--host", lan.address, "--json").json
    token = on_beta(lan, node, "token", "create", "short", "--expires", "30m", "--json").json["token"]
    url = f"https://{lan.address}:{node.port}"
    added = here(lan, "hosts", "add", "beta", url, "--token", token, "--pin", made["pin"])
    assert "it answers" in added.err

    clock.set("+1h")

    assert "the token `short` expired" in here(lan, "ps", "--host", "beta").err


def test_histories_are_in_order_of_time_although_one_clock_is_five_minutes_ahead(
    lan: Lan, node: ServingNode, engine: RealEngine, second_engine: RealEngine, clock: Clock, tmp_path: Path
) -> None:
    # A name of its own: the engine still knows what earlier tests did.
    engine.run("timed")
    second_engine.run("db")
    code = on_beta(lan, node, "invite", "--host", lan.address, "--scope", "read,operate,exec", "--json").json["code"]
    with running_node("gamma", tmp_path / "gamma", second_engine, lan.far) as gamma:

        def on_gamma(*arguments: str) -> CommandResult:
            own = {"DOCKER_HOST": second_engine.url, "ANVYL_HOME": str(gamma.home)}
            return run_program(*arguments, prefix=lan.far, seconds=120, ANVYL_NAME="gamma", **own)

        assert "it answers" in on_gamma("hosts", "add", code).err
        clock.set("+300")
        for name in ("timed", "db", "timed"):
            assert on_gamma("exec", name, "true", "--yes").code == 0
            time.sleep(1.2)  # clocks are compared to the second
        done = on_gamma("history", "--kind", "changes", "--json").json
        docker_times = on_gamma("history", "timed", "--json").json["events"]

    ran = [(event["host"], event["who"]) for event in done["events"] if event["what"].startswith("exec_in_container")]
    assert ran == [("beta", "gamma"), ("gamma", "local"), ("beta", "gamma")]
    assert "the clock of beta is 5 min ahead; its times are corrected" in done["notes"]
    assert docker_times[-1]["what"] == "created and started"
