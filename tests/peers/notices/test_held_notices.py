"""Cooldown, quiet hours and mutes hold notices back and sum them up; the end of a problem is sent once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.core.settings import load
from anvyl_mcp.peers.notices.held_notices import HeldNotices
from anvyl_mcp.peers.notices.mutes import Mute, MuteStore
from anvyl_mcp.peers.notices.notice import Level, Notice
from anvyl_mcp.peers.notices.quiet_hours import QuietHours, parse_quiet_hours
from anvyl_mcp.peers.watch.notifiers import NoticePost
from anvyl_mcp.peers.watch.troubles import Alert, Trouble
from tests.support.hosts.nodes import anvyl
from tests.support.notice_services import GOTIFY_TOKEN, running_services

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 6, 1, 12, tzinfo=BERLIN).timestamp()


@pytest.fixture(autouse=True)
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def notice(at: float, level: Level = "problem", name: str = "web", *, urgent: bool = False) -> Notice:
    body = f"{name} on nas is {'unhealthy' if level == 'problem' else 'no longer unhealthy'}."
    return Notice(f"{level}: {name}", body, level, at, ("nas", "unhealthy", name, ""), urgent)


class Scene:
    def __init__(self, cooldown: float = 600, quiet: QuietHours | None = None, mutes: list[Mute] | None = None) -> None:
        self.now = NOON
        self.mutes = mutes or []
        self.held = HeldNotices(
            cooldown, quiet or QuietHours(), lambda at: [one for one in self.mutes if one.until > at]
        )

    def at(self, seconds: float, *notices: Notice) -> list[str]:
        """Add notices at noon plus `seconds`, and return what is sent then."""
        for one in notices:
            self.held.add(one)
        return [one.body for one in self.held.due(NOON + seconds)]


def test_a_problem_and_its_end_are_sent_at_once_and_once() -> None:
    scene = Scene()

    assert scene.at(0, notice(NOON)) == ["web on nas is unhealthy."]
    assert scene.at(30) == []
    assert scene.at(60, notice(NOON + 60, "recovered")) == ["web on nas is no longer unhealthy."]
    assert scene.at(9000) == []


def test_a_flapping_container_is_reported_again_after_the_cooldown_with_a_count() -> None:
    scene = Scene()
    scene.at(0, notice(NOON))
    scene.at(60, notice(NOON + 60, "recovered"))

    for minute in range(2, 10):
        assert scene.at(60 * minute, notice(NOON + 60 * minute, "recovered" if minute % 2 else "problem")) == []
    assert scene.at(700, notice(NOON + 700)) == [
        "web on nas is unhealthy. 8 more changes since " + clock(120) + " held back."
    ]
    assert scene.at(730, notice(NOON + 730, "recovered")) == ["web on nas is no longer unhealthy."], (
        "the end of a problem that was sent"
    )


def clock(seconds: float) -> str:
    local = time.localtime(NOON + seconds)
    return time.strftime("%Y-%m-%d %H:%M:%S", local)


def test_things_do_not_hold_each_other_back() -> None:
    scene = Scene()
    scene.at(0, notice(NOON))

    assert scene.at(1, notice(NOON, name="db")) == ["db on nas is unhealthy."]


def test_a_mute_holds_back_what_it_is_about_and_sums_it_up_afterwards() -> None:
    scene = Scene(mutes=[Mute(NOON + 3600, "nas", "web")])

    assert scene.at(0, notice(NOON), notice(NOON, name="db")) == ["db on nas is unhealthy."]
    assert scene.at(60, notice(NOON + 60, "recovered")) == []
    [late] = scene.at(3600)
    assert late.startswith("- web on nas is no longer unhealthy. 1 more change since")
    assert scene.at(3700) == []


def test_quiet_hours_hold_back_all_but_urgent_notices_and_end_with_one_digest() -> None:
    scene = Scene(quiet=parse_quiet_hours("11:00-13:00"))

    assert scene.at(0, notice(NOON), notice(NOON, name="db")) == []
    assert scene.at(10, notice(NOON, name="nas", urgent=True)) == ["nas on nas is unhealthy."]
    scene.at(60, notice(NOON + 60, "recovered", "db"))
    [held] = scene.held.due(NOON + 3600)
    assert held.title == "During quiet hours: 1 problem, 1 over"
    assert held.body.splitlines()[0] == "- web on nas is unhealthy." and len(held.body.splitlines()) == 2


def berlin(text: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


@pytest.mark.parametrize(
    ("quiet", "moment", "covered"),
    [
        ("22:00-07:00", "2026-06-01T21:59", False),
        ("22:00-07:00", "2026-06-01T22:00", True),
        ("22:00-07:00", "2026-06-02T00:00", True),
        ("22:00-07:00", "2026-06-02T06:59", True),
        ("22:00-07:00", "2026-06-02T07:00", False),
        ("22-7", "2026-06-02T03:00", True),
        ("13:00-14:00, 22:00 to 24:00", "2026-06-02T13:30", True),
        ("13:00-14:00, 22:00 to 24:00", "2026-06-02T23:59", True),
        ("13:00-14:00, 22:00 to 24:00", "2026-06-02T00:00", False),
        # The clock goes forward on 29 March at 2:00, and back on 25 October at 3:00.
        ("22:00-07:00", "2026-03-29T06:59", True),
        ("22:00-07:00", "2026-03-29T07:00", False),
        ("22:00-07:00", "2026-10-25T06:59", True),
        ("22:00-07:00", "2026-10-25T07:00", False),
        ("02:00-02:30", "2026-10-25T02:15", True),
        ("02:00-02:30", "2026-03-29T01:59", False),
        ("", "2026-06-02T03:00", False),
    ],
)
def test_quiet_hours_follow_the_clock_on_the_wall(quiet: str, moment: str, covered: bool) -> None:
    assert parse_quiet_hours(quiet).covers(berlin(moment)) is covered
    assert parse_quiet_hours(quiet).covers(berlin(moment, fold=1)) is covered, "the second time in autumn too"


def test_a_night_with_a_change_of_summer_time_is_quiet_until_seven() -> None:
    quiet = parse_quiet_hours("22:00-07:00")
    for day, hours in (("2026-03-28", 8), ("2026-10-24", 10), ("2026-06-01", 9)):
        start = berlin(f"{day}T22:00")
        covered = [minute for minute in range(0, 14 * 60) if quiet.covers(start + minute * 60)]
        assert covered == list(range(hours * 60))


@pytest.mark.parametrize("text", ["25:00-07:00", "22:00", "22:61-07:00", "night", "07:00-07:00"])
def test_quiet_hours_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_quiet_hours(text)


def test_mutes_are_kept_for_the_running_watch(tmp_path: Path) -> None:
    assert anvyl("notify", "mute", "1h").code == 0
    assert anvyl("notify", "mute", "30m", "web", "--host", "nas").code == 0
    muted = anvyl("notify", "list", "--json").json["mutes"]
    assert [(one["host"], one["name"]) for one in muted] == [("", ""), ("nas", "web")]
    assert "muted: everything, until" in anvyl("notify", "list").err

    now = time.time()
    assert [one.covers("any", "thing", now) for one in MuteStore(tmp_path).active(now)] == [True, False]
    assert MuteStore(tmp_path).active(now + 3601) == []
    assert anvyl("notify", "unmute").code == 0 and MuteStore(tmp_path).active(now) == []
    assert anvyl("notify", "mute", "soon").code == 2 and anvyl("notify", "mute", "1000d").code == 2


async def test_a_failed_channel_is_reported_through_the_others_and_channels_are_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running_services() as services:
        home = {"ANVYL_HOME": str(tmp_path)}
        post = NoticePost(load({"watch_webhook": f"{services.url}/programs"}, home), "nas")
        (tmp_path / "notify.json").touch(0o600)
        (tmp_path / "notify.json").write_text(
            f'{{"phone": "ntfy://{services.address}/topic", "desk": "gotify://{services.address}/wrongSecret"}}',
            encoding="utf-8",
        )
        alert = Alert(Trouble("nas", "unhealthy", "web"), "web on nas is unhealthy", NOON, NOON)

        await post.tell([alert])
        await post.tell()

        got = [(service, message.get("message")) for service, message in services.got]
        assert ("json", "web on nas is unhealthy") in got and ("ntfy", "web on nas is unhealthy.") in got
        assert ("ntfy", "nas cannot deliver notices to `desk`: HTTP 401: Unauthorized.") in got and len(got) == 3
        assert "HTTP 401" in caplog.text and "the notice is lost" in caplog.text
        assert "wrongSecret" not in caplog.text

        services.got.clear()
        (tmp_path / "notify.json").write_text(
            f'{{"desk": "gotify://{services.address}/{GOTIFY_TOKEN}"}}', encoding="utf-8"
        )
        await post.tell([Alert(alert.trouble, "web on nas is no longer unhealthy", NOON, NOON, over=True)])
        assert {service for service, _ in services.got} == {"json", "gotify"}


async def test_a_restart_neither_repeats_nor_loses_a_notice(tmp_path: Path) -> None:
    """What people do not know yet is found again by the next watch; the end of what they know is not lost."""
    (tmp_path / "notify.json").touch(0o600)
    with running_services() as services:
        (tmp_path / "notify.json").write_text(f'{{"phone": "ntfy://{services.address}/topic"}}', encoding="utf-8")
        home = {"ANVYL_HOME": str(tmp_path)}
        post, began = NoticePost(load({}, home), "nas"), time.time()
        sent, muted, ended = (Trouble("nas", "unhealthy", name) for name in ("sent", "muted", "ended"))
        await post.tell([Alert(one, f"{one.subject} on nas is unhealthy", began, began) for one in (sent, ended)])
        MuteStore(tmp_path).add(Mute(began + 3600), began)
        await post.tell(
            [
                Alert(muted, "muted on nas is unhealthy", began, began),
                Alert(ended, "ended on nas is no longer unhealthy", began, began, over=True),
            ]
        )

        assert set(post.known_to_people({sent: began, muted: began})) == {sent, ended}
        assert [message["message"] for _, message in services.got] == [
            "sent on nas is unhealthy.",
            "ended on nas is unhealthy.",
        ]

        MuteStore(tmp_path).clear(began)
        services.fault = (503, "down")
        await post.tell()
        assert set(post.known_to_people({sent: began, muted: began})) == {sent}
