"""Rules with a history: conditions must last, happen often, or be near; what cannot be read names its line."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from anvyl_mcp.core.errors import ConfigInvalid
from anvyl_mcp.core.settings import load
from anvyl_mcp.peers.watch import watcher as watcher_module
from anvyl_mcp.peers.watch.container_exits import exits_in
from anvyl_mcp.peers.watch.disk_trend import seconds_until_full
from anvyl_mcp.peers.watch.rules import Rule, parse_rule
from tests.peers.watch.test_watcher import GIB, Scene
from tests.support.hosts.nodes import anvyl


@pytest.mark.parametrize(
    ("when", "kind", "seconds", "times", "limit"),
    [
        ("unhealthy for 10 minutes", "unhealthy", 600, 0, 0),
        ("unhealthy", "unhealthy", 0, 0, 0),
        ("Stopped for an hour", "stopped", 3600, 0, 0),
        ("gone for 1h30m", "gone", 5400, 0, 0),
        ("restarted 5 times in an hour", "restarted", 3600, 5, 0),
        ("died 2 times within 1 day", "died", 86400, 2, 0),
        ("disk will be full in 3 days", "filling", 3 * 86400, 0, 0),
        ("disk full within a week", "filling", 7 * 86400, 0, 0),
        ("memory over 90 % for 10 minutes", "memory", 600, 0, 90),
        ("memory above 2 GiB", "memory", 0, 0, 2 * GIB),
        ("cpu > 80% for 5m", "cpu", 300, 0, 80),
        ("disk over 95 percent", "disk", 0, 0, 95),
    ],
)
def test_a_condition_is_parsed(when: str, kind: str, seconds: float, times: int, limit: float) -> None:
    rule = parse_rule({"when": when}, "here")

    assert (rule.kind, rule.seconds, rule.times, rule.limit) == (kind, seconds, times, limit)


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"when": "sick for long"},
        {"when": "unhealthy for 10"},
        {"when": "unhealthy for 10 parsecs"},
        {"when": "restarted often"},
        {"when": "restarted 0 times in an hour"},
        {"when": "memory over 200 %"},
        {"when": "cpu over 2 GiB"},
        {"when": "disk will be full in 300 days"},
        {"when": "unhealthy", "container": "web"},
        {"when": "gone", "name": "web"},
        {"when": 5},
        {"when": "unhealthy", "urgent": "yes"},
    ],
)
def test_what_cannot_be_read_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid, match=r"config\.toml, line 7"):
        parse_rule(row, "config.toml, line 7")


def test_the_error_names_the_line_of_the_settings_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        'watch_quiet = "22:00-07:00"\n\n[[watch_rules]]\nname = "web"\nwhen = "unhealthy for 10 minutes"\n\n'
        '[[watch_rules]]\nhosts = "all"\n# why\nwhen = "sick for long"\n',
        encoding="utf-8",
    )

    done = anvyl("watch", "--once")

    assert done.code == 1 and "config.toml, line 10: `sick for long` is not a condition" in done.err
    assert "unhealthy for 10 minutes" in done.err, "an example"
    assert [table.fields["when"] for table in load().watch_rules] == ["unhealthy for 10 minutes", "sick for long"]


class Clock:
    """The time of the watcher."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(watcher_module, "time", fake)
    return fake


def scene_with(folder: Path, *rules: dict[str, Any]) -> Scene:
    return Scene(folder, [parse_rule(row, "here") for row in rules])


async def test_a_state_is_reported_when_it_has_lasted(tmp_path: Path, clock: Clock) -> None:
    scene = scene_with(tmp_path, {"when": "unhealthy for 10 minutes", "name": "w*"})
    vm = scene.hosts["vm"]
    vm.has("web", health="unhealthy")

    assert await scene.said() == []
    clock.now += 590
    vm.has("web", health="healthy")
    assert await scene.said() == [], "it was short"
    vm.has("web", health="unhealthy")
    assert await scene.said() == []
    clock.now += 601
    assert await scene.said() == ["web on vm is unhealthy, for more than 10 min"]
    assert await scene.said() == []
    vm.has("web", health="healthy")
    assert await scene.said() == ["web on vm is no longer unhealthy, after 10 min"]
    vm.has("db", health="unhealthy")
    assert await scene.said() == ["db on vm is unhealthy"], "no rule is about it"


async def test_a_host_of_another_selector_is_not_affected(tmp_path: Path, clock: Clock) -> None:
    scene = scene_with(tmp_path, {"when": "unhealthy for 1h", "hosts": "nas", "urgent": True})
    for host in scene.hosts.values():
        host.has("web", health="unhealthy")

    assert await scene.said() == ["web on vm is unhealthy"]
    clock.now += 3601
    [alert] = await scene.watcher.check()
    assert alert.trouble.host == "nas" and alert.urgent and alert.as_dict()["rule"] == "unhealthy for 1h"


async def test_exits_are_counted_in_a_window_also_before_the_watch_began(tmp_path: Path, clock: Clock) -> None:
    scene = scene_with(tmp_path, {"when": "restarted 3 times in an hour"})
    vm = scene.hosts["vm"]
    vm.has("web", status="Up 20 minutes")
    vm.exits_at(clock.now - 4000, clock.now - 600)

    assert await scene.said() == [], "one in the last hour, before the watch"
    for _ in range(2):
        clock.now += 60
        vm.exits_at(clock.now)
        said = await scene.said()
    assert "web on vm restarted 3 times in an hour" in said
    clock.now += 30
    vm.events = []
    assert await scene.said() == []
    clock.now += 3600
    assert any("restarts less often" in one for one in await scene.said())


async def test_memory_of_the_machine_and_of_containers(tmp_path: Path, clock: Clock) -> None:
    scene = scene_with(
        tmp_path, {"when": "memory over 90 % for 10 minutes"}, {"when": "memory over 2 GiB", "name": "*"}
    )
    vm = scene.hosts["vm"]
    vm.memory = 95.0
    vm.usage = [{"name": "db", "cpu_percent": 1.0, "memory_used": 3 * GIB, "memory_limit": 8 * GIB}]

    assert await scene.said() == ["db on vm uses 3 GiB of memory"]
    clock.now += 601
    assert await scene.said() == ["vm uses 95 % of its memory, for more than 10 min"]
    vm.memory, vm.usage = 89.0, []
    assert await scene.said() == ["memory of db on vm is below the limit again, after 10 min"], "89 % is near 90 %"
    vm.memory = 80.0
    assert await scene.said() == ["memory of vm is below the limit again, after 10 min"]


async def test_a_disk_that_fills_up_is_reported_before_it_is_full(tmp_path: Path, clock: Clock) -> None:
    scene = scene_with(tmp_path, {"when": "disk will be full in 3 days"})
    nas, said = scene.hosts["nas"], []
    for hour in range(24):
        nas.used = int((5 + hour * 0.06) * GIB)
        said += await scene.said()
        clock.now += 3600

    assert said == ["disk / on nas will be full in about 3 days if it fills as before (40 % used, 4.28 GiB free)"]


async def test_history_of_the_host_is_used(tmp_path: Path, clock: Clock) -> None:
    """Exits before the watch began, and the forecast of disks, as `list_history` and `get_usage_history` answer."""
    tools = ("list_history", "get_usage_history")
    rules = ({"when": "died 3 times in 2 hours"}, {"when": "disk will be full in 3 days"})
    scene = Scene(tmp_path, [parse_rule(row, "here") for row in rules], more_tools=tools)
    vm = scene.hosts["vm"]

    def at(ago: float) -> str:
        return datetime.fromtimestamp(clock.now - ago, UTC).isoformat()

    death = {"name": "web", "what": "crashed", "who": "", "exit_code": 1}
    vm.answers["list_history"] = {
        "events": [
            {**death, "time": at(60), "first": at(600), "times": 3},
            {**death, "name": "db", "time": at(60), "times": 9, "who": "anna"},
            {**death, "name": "old", "time": at(9000), "first": at(9900), "times": 5},
        ]
    }
    vm.answers["get_usage_history"] = {
        "disks": [{"mount": "/", "used": 1, "total": 2, "growth_per_day": 10, "full_in_days": 2.5, "days": 7.0}]
    }

    assert await scene.said() == [
        "web on vm died 3 times in 2 h",
        "disk / on vm will be full in about 2 days if it fills as before (40 % used, 1 GiB free)",
    ]
    clock.now += 601
    vm.answers["get_usage_history"]["disks"][0]["full_in_days"] = None
    assert await scene.said() == ["disk / on vm no longer fills up that fast, after 10 min"]


@pytest.mark.parametrize(
    ("actions", "exits"),
    [
        (["die"], [False]),
        (["kill", "die", "stop"], [True]),
        (["kill", "die", "stop", "start", "restart"], []),
        (["kill", "die", "stop", "start", "die"], [True, False]),
        (["die", "start", "die", "start", "kill", "die", "stop"], [False, False, True]),
        (["kill", "stop", "died"], [True]),
    ],
)
def test_each_exit_is_a_request_or_not(actions: list[str], exits: list[bool]) -> None:
    rows = [
        {"type": "container", "id": "a", "name": "a", "action": one, "time": str(n)} for n, one in enumerate(actions)
    ]

    assert [one.asked for one in exits_in(rows)] == exits


def test_the_estimate_needs_a_rise_over_hours() -> None:
    now = 1_000_000.0
    rising = [(now - 86400 + hour * 3600, float(hour * GIB)) for hour in range(24)]

    left = seconds_until_full(rising, 10 * GIB, now)
    assert left is not None and abs(left - 36000) < 60
    assert seconds_until_full(rising[:3], 10 * GIB, now) is None
    assert seconds_until_full([(at, 5.0) for at, _ in rising], 10 * GIB, now) is None
    assert seconds_until_full([(at, -used) for at, used in rising], 10 * GIB, now) is None


def test_a_rule_names_what_it_is_about() -> None:
    assert not Rule("memory over 90 %", "memory", name="web").is_about_machines
    assert Rule("memory over 90 %", "memory").is_about_machines
