"""`anvyl-mcp audit`: the table for people, and JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from anvyl_mcp.core.text import ANSI, format_local_time
from anvyl_mcp.server.audit.log import Audit
from tests.support.hosts.nodes import ANVYL_MCP, CommandResult, run_program
from tests.support.terminal import open_terminal


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set a time zone other than UTC, without daylight saving time."""
    monkeypatch.setenv("TZ", "<+02>-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Thirty reads, a change, a refused read, and an action that is not a tool call."""
    with closing(Audit(tmp_path / "audit")) as audit:
        for _ in range(30):
            audit.end(audit.begin("list_containers", {}, who="desk", how="token", changes=False), "ok")
        arguments = {"name": "jellyfin", "timeout": 10}
        stop = audit.begin("stop_container", arguments, who="desk", how="token", operation="op-1", changes=True)
        audit.end(stop, "ok")
        logs = audit.begin("get_container_logs", {"name": "…"}, who="pi", how="token", changes=False)
        audit.end(logs, "denied", "denied")
        audit.end(audit.begin("token.create", {"name": "x"}, who="local", how="local", changes=True), "ok")
    return tmp_path


def audit(*arguments: str) -> CommandResult:
    return run_program("audit", *arguments, program=ANVYL_MCP)


def rows(done: CommandResult) -> list[list[str]]:
    assert done.code == 0, done.err
    return [line.split("\t") for line in done.out.splitlines()[1:]]


def test_changes_and_refusals_are_shown_and_reads_on_request(log: Path) -> None:
    changes, everything, one_tool = audit(), audit("--all"), audit("--tool", "list_containers", "--limit", "2")

    assert [row[1:5] for row in rows(changes)] == [
        ["desk", "stop_container", "name=jellyfin timeout=10", "ok"],
        ["pi", "get_container_logs", "name=…", "denied"],
        ["local", "token.create", "name=x", "ok"],
    ]
    assert len(rows(everything)) == 33
    assert len(rows(one_tool)) == 2 and "28 older records are not shown" in one_tool.err
    assert audit("--limit", "-1").code == 2


def test_times_are_local_and_seconds_have_two_decimals(log: Path) -> None:
    [stop, *_] = rows(audit())
    [record, *_] = json.loads(audit("--tool", "stop_container", "--json").out)["records"]
    then = datetime.fromisoformat(record["time"])

    assert record["time"].endswith("+00:00")
    assert stop[0].rpartition(" ")[2] == then.astimezone().strftime("%H:%M:%S")
    assert stop[5] == f"{record['seconds']:.2f}"


@pytest.mark.parametrize(
    ("when", "shown"),
    [
        ("2025-11-27T22:30:00.25+00:00", "2025-11-28 00:30:00"),
        ("2025-07-01T10:00:00Z", "2025-07-01 12:00:00"),
        ("x", "x"),
    ],
)
def test_a_time_on_another_day_includes_its_date(when: str, shown: str) -> None:
    assert format_local_time(when) == shown


def test_json_has_every_record(log: Path) -> None:
    records = json.loads(audit("--json").out)["records"]

    assert len(records) == 33
    assert set(records[0]) >= {"seq", "time", "who", "how", "tool", "arguments", "outcome", "error", "seconds", "hash"}


def test_it_fits_a_narrow_terminal(log: Path) -> None:
    with open_terminal("audit", program=ANVYL_MCP, size=(60, 24)) as terminal:
        assert terminal.end() == 0

    lines = ANSI.sub("", terminal.shown).splitlines()
    assert max(map(len, lines)) <= 60
    assert any("stop_container" in line and "ok" in line for line in lines)
